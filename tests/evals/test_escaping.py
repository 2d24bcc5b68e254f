"""Nothing that a stored field says becomes a tag of a page, or a script of it."""

import html.parser
import json

import evaluate_support
import pytest

from tga_jax.evals import compare, page, store
from tga_jax.workdir import write_json

EVIL = "<img src=x onerror=alert(1)>\"'&<script>"


class _Tags(html.parser.HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, [name for name, _ in attrs]))


def safe(text: str) -> None:
    tags = _Tags(text).found
    assert not [tag for tag, names in tags if tag == "script" or any(name.startswith("on") for name in names)]
    assert EVIL not in text


def evil(value):
    """With `EVIL` behind every text that is shown."""
    if isinstance(value, dict):
        return {key if key in _KEYS else key + EVIL: evil(v) for key, v in value.items()}
    if isinstance(value, list):
        return [evil(v) for v in value]
    return value + EVIL if isinstance(value, str) and value not in _KEYS else value


_KEYS = {
    "settings", "checkpoint", "template", "system", "defence", "name", "attack", "benchmarks", "toys", "suite",
    "answers", "empty", "judges", "judge_order", "agreement", "kappa", "warnings", "note", "export", "table", "input",
    "group", "value", "rates", "low", "high", "n", "rubric", "left_out", "commands", "summary", "cost", "chosen",
    "defended", "undefended", "refusal", "DSR", "over-refusal", "image", "text", "differs", "not_compared",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "BENCHMARKS", evaluate_support.BENCHMARKS)
    made = tmp_path / "run"
    judge = f"j{EVIL}".replace("/", "")
    rows = [
        {
            "n": i, "id": f"{i}{EVIL}", "input": ("image", "text")[i % 2], "question": EVIL, "answer": EVIL,
            "groups": {f"kind{EVIL}": EVIL}, "harmful": i < 2, "target": EVIL,
        }
        for i in range(4)
    ]  # fmt: skip
    for part, name, own in (
        ("answers", "toys", rows),
        ("verdicts", f"toys.{judge}", [{"n": i, "verdict": "refusal"} for i in range(4)]),
    ):
        kept = store.AnswerStore(made / part, name, 4)
        kept.append(own)
        kept.finish()
    rate = {"value": 1.0, "low": 0.5, "high": 1.0, "n": 2}
    row = {"input": "image", "group": None, "value": None, "rates": {"DSR": rate, "over-refusal": rate, "m": rate}}
    groups = {"input": "text", "group": "kind", "value": "a", "rates": {"DSR": rate, "over-refusal": rate}}
    results = evil({
        "settings": {"checkpoint": "c", "template": "t", "system": "s", "defence": {"name": "d"}, "attack": None},
        "benchmarks": {"toys": {
            "suite": "safety", "answers": 4, "empty": 1, "note": "n", "export": ["f"], "table": [row],
            "judges": {}, "agreement": [{"judges": ["a", "b"], "kappa": 0.5}], "warnings": ["w"],
            "summary": {"F1": 1.0},
        }},
        "left_out": {"pope": "r"}, "commands": ["tga"],
        "defence": {"chosen": {"layer": "v"}, "cost": {"toys": {"defended": 1.0, "undefended": 1.0}}},
    })  # fmt: skip
    results["benchmarks"]["toys"]["judges"] = {judge: {"rubric": "refusal", "table": evil([row, groups])}}
    results["benchmarks"]["toys"]["judge_order"] = [judge]
    write_json(made / "results.json", results)
    return made


def test_the_report_of_an_evaluation(folder):
    results = json.loads((folder / "results.json").read_text())
    made = page.page(results, folder, evaluate_support.BENCHMARKS)
    safe(made)
    assert made.count("&lt;img") > 20


def test_two_evaluations_beside_each_other(folder, tmp_path):
    path = tmp_path / "page.html"
    import rich.console

    compare.report(folder, folder, rich.console.Console(quiet=True), page=path, command=EVIL)
    safe(path.read_text())
