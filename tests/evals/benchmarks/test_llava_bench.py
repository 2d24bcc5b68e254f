"""LLaVA-Bench against files of its form."""

import json

import pytest
from general_support import edit, error, lines, load, png, question, write

from tga_jax.evals.benchmarks import llava_bench


@pytest.fixture
def folder(tmp_path):
    rows = [
        question(0, "001.jpg", "What is this sight?", category="conv"),
        question(1, "001.jpg", "Describe it.", category="detail"),
        question(2, "002.jpg", "Why, über all?", category="complex"),
    ]
    write(tmp_path / "questions.jsonl", lines(rows))
    for number, color in ((1, "red"), (2, "blue")):
        write(tmp_path / f"images/00{number}.jpg", png(color))
    return tmp_path


def test_llava_bench(folder, tmp_path):
    samples = load(llava_bench, folder)
    assert [(s.id, s.question, s.groups["category"]) for s in samples] == [
        ("0", "<image>\nWhat is this sight?", "conv"),
        ("1", "<image>\nDescribe it.", "detail"),
        ("2", "<image>\nWhy, über all?", "complex"),
    ]
    assert samples[2].images[0]().getpixel((0, 0)) == (0, 0, 255)
    llava_bench.BENCHMARK.export(list(zip(samples, ["A", "B\nC", "Ü"], strict=True)), tmp_path / "out", folder)
    rows = [json.loads(line) for line in (tmp_path / "out/answers.jsonl").read_text(encoding="utf-8").splitlines()]
    # What eval_gpt_review_bench.py reads of an answer, and that it is the question's.
    assert [(r["question_id"], r["text"], r["answer_id"]) for r in rows] == [
        (0, "A", "0"),
        (1, "B\nC", "1"),
        (2, "Ü", "2"),
    ]
    assert rows[2]["prompt"] == "Why, über all?"
    assert rows[1]["metadata"] == {"category": "detail"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"conv"', '"chat"', "questions.jsonl: line 1: `category` is 'chat', expected one of conv, detail, complex"),
        ('"question_id": 1', '"question_id": 0', "questions.jsonl: question '0' is there twice"),
        ("002.jpg", "003.jpg", "images/003.jpg: no such picture"),
        ('"text": "Describe it."', '"text": 3', "questions.jsonl: line 2: `text` is 3, expected a string"),
    ],
)
def test_bad_llava_bench(folder, old, new, message):
    edit(folder / "questions.jsonl", old, new)
    error(llava_bench, folder, message)
