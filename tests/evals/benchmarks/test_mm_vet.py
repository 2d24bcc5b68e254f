"""MM-Vet against files of its form."""

import json

from general_support import error, lines, load, png, question, write

from tga_jax.evals.benchmarks import (
    mm_vet,
)


def test_mm_vet(tmp_path):
    rows = [question(0, "v1_0.png", "What is x?", category="conv"), question(1, "v1_0.png", "Why?")]
    write(tmp_path / "llava-mm-vet.jsonl", lines(rows))
    write(tmp_path / "images/v1_0.png", png())
    samples = load(mm_vet, tmp_path)
    assert [(s.id, s.question, s.target) for s in samples] == [
        ("0", "<image>\nWhat is x?", None),
        ("1", "<image>\nWhy?", None),
    ]
    mm_vet.BENCHMARK.export(list(zip(samples, ["It is 3.\nSo.", "é"], strict=True)), tmp_path / "out", tmp_path)
    assert json.loads((tmp_path / "out/mm-vet.json").read_text()) == {"v1_0": "It is 3.\nSo.", "v1_1": "é"}
    write(tmp_path / "llava-mm-vet.jsonl", lines([rows[0], rows[0]]))
    error(mm_vet, tmp_path, "llava-mm-vet.jsonl: question '0' is there twice")
