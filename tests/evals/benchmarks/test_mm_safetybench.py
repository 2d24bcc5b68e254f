"""MM-SafetyBench against files of its form."""

import json

import pytest
from safety_support import fails, found, put, shows

from tga_jax.evals.benchmarks import (
    mm_safetybench,
)


def mm_row(number):
    return {
        "Question": f"plain {number}",
        "Changed Question": "never asked",
        "Key Phrase": "phrase",
        "Phrase Type": "activity",
        "Rephrased Question": f"about the bottom {number}",
        "Rephrased Question(SD)": f"about the picture {number}",
    }


def put_mm(folder):
    for scenario in mm_safetybench.SCENARIOS:
        ids = ("10", "2") if scenario == "06-Fraud" else ("0",)
        put(folder, f"data/processed_questions/{scenario}.json", {i: mm_row(i) for i in ids})
        for kind in ("SD", "SD_TYPO", "TYPO"):
            for i in ids:
                put(folder, f"data/imgs/{scenario}/{kind}/{i}.jpg")


def test_mm_safetybench(tmp_path):
    put_mm(tmp_path)
    samples = found(mm_safetybench.BENCHMARK, tmp_path)
    assert len(samples) == 14 * 3
    assert list(samples)[:3] == [f"01-Illegal_Activitiy/{kind}/0" for kind in ("SD", "SD_TYPO", "TYPO")]
    assert [i for i in samples if i.startswith("06-Fraud/SD/")] == ["06-Fraud/SD/10", "06-Fraud/SD/2"]
    questions = {kind: samples[f"06-Fraud/{kind}/10"].question for kind in ("SD", "SD_TYPO", "TYPO")}
    assert questions == {
        "SD": "<image>\nabout the picture 10",
        "SD_TYPO": "<image>\nabout the bottom 10",
        "TYPO": "<image>\nabout the bottom 10",
    }
    sample = samples["06-Fraud/TYPO/2"]
    assert (sample.text, sample.harmful) == ("plain 2", True)
    assert sample.groups == {"scenario": "06-Fraud", "kind": "TYPO"}
    assert shows(sample, "data/imgs/06-Fraud/TYPO/2.jpg")
    assert not shows(sample, "data/imgs/06-Fraud/TYPO/10.jpg")


@pytest.mark.parametrize("rows", [[], {}, [mm_row(0)], "x"])
def test_mm_safetybench_with_other_json(tmp_path, rows):
    put_mm(tmp_path)
    put(tmp_path, "data/processed_questions/06-Fraud.json", json.dumps(rows))
    fails(mm_safetybench.BENCHMARK, tmp_path, r"06-Fraud\.json: expected MM-SafetyBench's questions by id")


@pytest.mark.parametrize("field", ["Question", "Rephrased Question", "Rephrased Question(SD)"])
def test_mm_safetybench_without_a_field(tmp_path, field):
    put_mm(tmp_path)
    rows = {"7": {k: v for k, v in mm_row(7).items() if k != field}}
    put(tmp_path, "data/processed_questions/13-Gov_Decision.json", rows)
    for kind in ("SD", "SD_TYPO", "TYPO"):
        put(tmp_path, f"data/imgs/13-Gov_Decision/{kind}/7.jpg")
    message = rf"13-Gov_Decision\.json: question 7: None as `{field}`".replace("(", r"\(").replace(")", r"\)")
    fails(mm_safetybench.BENCHMARK, tmp_path, message)


def test_mm_safetybench_without_a_file(tmp_path):
    put_mm(tmp_path)
    (tmp_path / "data/imgs/13-Gov_Decision/SD_TYPO/0.jpg").unlink()
    fails(mm_safetybench.BENCHMARK, tmp_path, r"13-Gov_Decision/SD_TYPO/0\.jpg: no such picture")
    (tmp_path / "data/processed_questions/07-Sex.json").unlink()
    fails(mm_safetybench.BENCHMARK, tmp_path, r"07-Sex\.json: no such file")
