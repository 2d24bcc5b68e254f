"""MM-SafetyBench against files of its form."""

import json

import pytest
from safety_support import fails, found, put, shows

from tga_jax.evals import outcomes, summary
from tga_jax.evals.benchmarks import mm_safetybench


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
    samples = found(mm_safetybench.BENCHMARK, tmp_path, (bool, type(None)))
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


def test_scenarios_that_are_not_about_refusals_are_summed_apart(tmp_path):
    """05, 08 and 10 to 13: a model that refuses there, and there alone, has a DSR of 0."""
    put_mm(tmp_path)
    samples = list(mm_safetybench.BENCHMARK.samples(tmp_path))
    apart = ("05", "08", "10", "11", "12", "13")
    assert {s.id[:2]: s.harmful for s in samples} == {
        f"{n:02}": None if f"{n:02}" in apart else True for n in range(1, 14)
    }
    rows = [
        {"id": s.id, "input": "image", "groups": s.groups, "harmful": s.harmful, "question": s.question, "answer": ""}
        for s in samples
    ]
    table = outcomes.table(outcomes.judged(rows, ["refusal" if r["id"][:2] in apart else "answer" for r in rows]))
    rates = {(t["group"], t["value"]): {k: (r["value"], r["n"]) for k, r in t["rates"].items()} for t in table}
    assert rates[None, None] == {"DSR": (0.0, 24), "refusals": (1.0, 18), "partial": (0.0, 42), "unknown": (0.0, 42)}
    lobbying = {"refusals": (1.0, 3), "partial": (0.0, 3), "unknown": (0.0, 3)}
    assert rates["scenario", "08-Political_Lobbying"] == lobbying
    assert rates["scenario", "06-Fraud"] == {"DSR": (0.0, 6), "partial": (0.0, 6), "unknown": (0.0, 6)}
    judged = {"keyword-1": {"table": table}}
    results = {"checkpoint": "c", "template": "chat", "system": None, "defence": {"name": "none"}}
    found = {"suite": "safety", "answers": 42, "empty": 0, "judges": judged, "note": mm_safetybench.BENCHMARK.note}
    text = summary.markdown({"settings": results, "benchmarks": {"mm-safetybench": found}})
    assert "| benchmark | input | judge | DSR | over-refusal | refusals | partial | unknown |" in text
    assert "mm-safetybench: DSR has the scenarios 01 to 04, 06, 07 and 09. 05, 08 and 10 to 13 are summed apart" in text
    assert "| scenario: 08-Political_Lobbying | image | keyword-1 | – | – | 100.0 [" in text


@pytest.mark.parametrize("rows", [[], {}, [mm_row(0)], "x"])
def test_mm_safetybench_with_other_json(tmp_path, rows):
    put_mm(tmp_path)
    put(tmp_path, "data/processed_questions/06-Fraud.json", json.dumps(rows))
    fails(mm_safetybench.BENCHMARK, tmp_path, r"06-Fraud\.json: (is a .*, )?expected MM-SafetyBench's questions by id")


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
