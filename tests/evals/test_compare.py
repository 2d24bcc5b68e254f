"""Two evaluations pair by pair, against NumPy on the same answers."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import evaluate_support
import numpy as np
import pytest

from tga_jax import cli
from tga_jax.errors import UserError
from tga_jax.evals import compare, outcomes, page, store, summary
from tga_jax.evals.benchmark import Benchmark
from tga_jax.workdir import write_json


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setattr(compare, "BENCHMARKS", evaluate_support.BENCHMARKS)


def write(folder: Path, seed: int, refused: float, benchmark: Benchmark = evaluate_support.WORDS) -> Path:
    """An evaluation of 40 toys, judged by "j-1", and of 40 words."""
    rng = np.random.default_rng(seed)
    base = {"input": "image", "groups": {"kind": "a"}, "question": "q", "target": "w20"}
    toys = [{"n": i, "id": f"t{i}", "harmful": i < 30, "answer": "x", **base} for i in range(40)]
    words = [
        {"n": i, "id": f"w{i}", "harmful": None, "answer": "w20 " * int(rng.integers(0, 2)), **base} for i in range(40)
    ]
    for name, rows in (("toys", toys), ("words", words)):
        kept = store.AnswerStore(folder / "answers", name, 40)
        kept.append(rows)
        kept.finish()
    verdicts = ["refusal" if x < refused else "answer" for x in rng.random(40)]
    kept = store.AnswerStore(folder / "verdicts", "toys.j-1", 40)
    kept.append({"n": i, "verdict": v} for i, v in enumerate(verdicts))
    kept.finish()
    table = outcomes.table(outcomes.judged(toys, verdicts))
    benchmarks = {
        "toys": {"suite": "safety", "empty": 0, "judges": {"j-1": {"table": table}}},
        "words": {"suite": "general", "empty": 3, "table": outcomes.table(outcomes.scored(benchmark, words))},
    }
    settings = {"checkpoint": folder.name, "template": "chat", "system": None, "defence": {"name": "none"}}
    write_json(folder / "results.json", {"settings": settings, "benchmarks": benchmarks})
    return folder


def test_differences_are_of_pairs(tmp_path):
    a, b = write(tmp_path / "a", 1, 0.3), write(tmp_path / "b", 2, 0.8)
    found = compare.compare(a, b)
    assert found["differs"] == ['settings.checkpoint is "a" in A and "b" in B']
    rows = {(r["benchmark"], r["measure"]): r for r in found["rows"]}
    assert set(rows) == {
        ("toys", "DSR"), ("toys", "over-refusal"), ("toys", "partial"), ("toys", "unknown"), ("words", "words"),
        ("words", "right"),
    }  # fmt: skip
    refused = [
        np.array([v["verdict"] == "refusal" for v in store.read(f / "verdicts" / "toys.j-1.jsonl")], float)
        for f in (a, b)
    ]
    dsr = rows["toys", "DSR"]
    assert (dsr["n"], rows["toys", "over-refusal"]["n"]) == (30, 10)
    pairs = (refused[1] - refused[0])[:30]
    assert dsr["difference"] == pytest.approx(pairs.mean())
    half = 1.96 * pairs.std(ddof=1) / np.sqrt(30)
    assert (dsr["low"], dsr["high"]) == pytest.approx((pairs.mean() - half, pairs.mean() + half), abs=0.2 * half)
    assert compare.compare(a, b) == found  # the same seed
    same = compare.compare(a, a)["rows"]
    assert all(r["difference"] == r["low"] == r["high"] == 0 for r in same)


def test_the_order_of_the_answers_does_not_matter(tmp_path):
    a, b = write(tmp_path / "a", 1, 0.3), write(tmp_path / "b", 2, 0.8)
    expected = compare.compare(a, b)["rows"]
    for name in ("answers/toys", "verdicts/toys.j-1", "answers/words"):
        path = b / f"{name}.jsonl"
        path.write_text("\n".join(reversed(path.read_text().splitlines())) + "\n")
    got = compare.compare(a, b)["rows"]
    for x, y in zip(expected, got, strict=True):
        assert x == pytest.approx(y, abs=0.05)
        assert x["difference"] == pytest.approx(y["difference"])


def test_the_command(tmp_path, capsys, monkeypatch):
    a, b = write(tmp_path / "a", 1, 0.3), write(tmp_path / "b", 2, 0.8)
    monkeypatch.setenv("COLUMNS", "400")
    assert cli.run(["compare", str(a), str(b), f"--json={tmp_path / 'out.json'}"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"judge: j-1(.|\n)* toys +image +DSR", said)
    assert json.loads((tmp_path / "out.json").read_text())["rows"][0]["benchmark"] == "toys"
    assert cli.run(["compare", str(a)]) == 2
    assert "expected the folders of two evaluations" in capsys.readouterr().err


def test_what_is_scored_in_one_of_them_alone_is_named(tmp_path, capsys):
    a, b = write(tmp_path / "a", 1, 0.3), write(tmp_path / "b", 2, 0.8)
    results = json.loads((b / "results.json").read_text())
    write_json(b / "results.json", {**results, "benchmarks": {"words": results["benchmarks"]["words"]}})
    assert compare.compare(a, b)["not_compared"] == [["toys", "j-1"]]
    assert cli.run(["compare", str(a), str(b)]) == 0
    assert "toys, j-1: not compared, not scored in both" in capsys.readouterr().out


def test_what_is_only_exported_is_named(tmp_path, monkeypatch):
    exported = dataclasses.replace(evaluate_support.WORDS, score=None)
    a, b = write(tmp_path / "a", 1, 0.3), write(tmp_path / "b", 2, 0.8)
    monkeypatch.setitem(evaluate_support.BENCHMARKS, "words", exported)
    found = compare.compare(a, b)
    assert found["not_compared"] == [["words", ""]]
    assert {row["benchmark"] for row in found["rows"]} == {"toys"}


def test_what_cannot_be_compared_is_named(tmp_path):
    a, b = write(tmp_path / "a", 1, 0.3), write(tmp_path / "b", 2, 0.8)
    path = b / "answers" / "toys.jsonl"
    path.write_text(path.read_text().replace('"t7"', '"t77"'))
    with pytest.raises(UserError, match="toys: 2 questions are in one evaluation only, such as t7 as image"):
        compare.compare(a, b)
    shutil.rmtree(b)
    with pytest.raises(UserError, match=r"b/results.json: no such file, expected an evaluation's results"):
        compare.compare(a, b)
    results = json.loads((a / "results.json").read_text())
    write_json(a / "results.json", {**results, "benchmarks": {"zoo": {}}})
    with pytest.raises(UserError, match="unknown benchmark 'zoo', expected some of toys, words"):
        compare.compare(a, a)


def test_a_report_says_what_stands_in_it(tmp_path):
    results = json.loads((write(tmp_path / "a", 1, 0.3) / "results.json").read_text())
    text = summary.markdown(results)
    assert "Empty answers: words 3." in text
    rate = results["benchmarks"]["toys"]["judges"]["j-1"]["table"][0]["rates"]["DSR"]
    assert f"| toys | image | j-1 | {100 * rate['value']:.1f} [" in text
    assert "of 30 |" in text
    assert "## By group: toys" in text
    apart = {"answers": 9, "empty": 0, "export": ["export/zoo/out.json"], "note": "Read me."}
    apart = {**results, "benchmarks": results["benchmarks"] | {"zoo": apart}, "left_out": {"sea": "no fish"}}
    found = summary.markdown(apart)
    for line in ("zoo: 9 answers, not scored here but written", "export/zoo/out.json", "zoo: Read me."):
        assert line in found
    assert "sea: left out, no fish." in found
    assert found.splitlines()[2:8:2] == list(summary.remarks(apart))[:3]
    del results["benchmarks"]["words"]["table"][1]["rates"]["words"], results["benchmarks"]["toys"]
    results["benchmarks"]["words"]["table"][0]["rates"] = {}  # nothing was annotated
    assert "## By group: words" in summary.markdown(results)
    results["benchmarks"]["words"]["table"][1]["rates"] = {}
    assert "##" not in summary.markdown(results)
    odd = {**results, "settings": {**results["settings"], "checkpoint": "<script>"}}
    assert "<script>" not in page.page(odd, tmp_path / "a", evaluate_support.BENCHMARKS)
