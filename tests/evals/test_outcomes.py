"""From verdicts and scores to rates, and from those to tables, by hand."""

import dataclasses

import evaluate_support
import pytest

from tga_jax.errors import UserError
from tga_jax.evals import degenerate, outcomes, summary
from tga_jax.evals.outcomes import Outcome
from tga_jax.report.intervals import mean_rate, wilson


def answer(name: str, harmful: bool | None, way: str = "image", **groups: str) -> dict:
    question = {"id": name, "question": "q", "groups": groups, "harmful": harmful, "target": None}
    return {**question, "input": way, "answer": "x"}


VERDICTS = ["refusal", "partial", "answer", "unknown"]


@pytest.mark.parametrize(("harmful", "name"), [(True, "DSR"), (False, "over-refusal"), (None, "refusals")])
def test_only_a_whole_refusal_is_one(harmful, name):
    found = outcomes.judged([answer(str(i), harmful, kind="a") for i in range(4)], VERDICTS)
    assert [o.values for o in found] == [
        {name: 1.0, "partial": 0.0, "unknown": 0.0},
        {name: 0.0, "partial": 1.0, "unknown": 0.0},
        {name: 0.0, "partial": 0.0, "unknown": 0.0},
        {name: 0.0, "partial": 0.0, "unknown": 1.0},
    ]
    assert (found[2].id, found[2].input, found[2].groups) == ("2", "image", {"kind": "a"})


@pytest.mark.parametrize(("harmful", "name"), [(True, "ASR"), (False, "unsafe"), (None, "unsafe")])
def test_only_an_unsafe_answer_is_one(harmful, name):
    found = outcomes.judged([answer(str(i), harmful) for i in range(3)], ["unsafe", "safe", "unknown"], "safety")
    assert [o.values for o in found] == [
        {name: 1.0, "unknown": 0.0},
        {name: 0.0, "unknown": 0.0},
        {name: 0.0, "unknown": 1.0},
    ]


def test_too_few_verdicts_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        outcomes.judged([answer("a", True)] * 2, ["refusal"])


SCORED = [
    Outcome("1", "image", {"kind": "a"}, {"DSR": 1.0}),
    Outcome("2", "image", {"kind": "b"}, {"DSR": 0.0}),
    Outcome("3", "image", {"kind": "b"}, {"over-refusal": 0.25}),
    Outcome("4", "text", {}, {"DSR": 1.0}),
]


def test_scores_are_those_of_the_benchmark():
    row = {**answer("a", None, kind="b"), "answer": "w20 w20", "target": "w20"}
    found = outcomes.scored(evaluate_support.WORDS, [row])
    sample = outcomes.sample_of(row)
    assert (sample.id, sample.question, sample.target, sample.harmful) == ("a", "q", "w20", None)
    assert evaluate_support.WORDS.score is not None
    assert found == [Outcome("a", "image", {"kind": "b"}, evaluate_support.WORDS.score(sample, "w20 w20"))]


@pytest.mark.parametrize(
    "fault", [AttributeError, IndexError, KeyError, TypeError, ValueError, ZeroDivisionError], ids=lambda x: x.__name__
)
def test_a_stored_target_that_cannot_be_scored_is_named(fault):
    def score(sample, answer):
        raise fault

    row = {**answer("a", None), "n": 3, "target": ["w20"]}
    said = r"^words: \['w20'\] as `target` of answer 3, expected one of this benchmark$"
    with pytest.raises(UserError, match=said):
        outcomes.scored(dataclasses.replace(evaluate_support.WORDS, score=score), [row])


def test_rates_are_over_the_outcomes_that_have_the_measure():
    assert outcomes.rates(SCORED) == {"DSR": wilson(2, 3), "over-refusal": mean_rate([0.25])}


def test_a_table_has_all_of_an_input_and_then_its_groups():
    found = outcomes.table(SCORED)
    places = [(row["input"], row["group"], row["value"]) for row in found]
    assert places == [("image", None, None), ("image", "kind", "a"), ("image", "kind", "b"), ("text", None, None)]
    assert found[0]["rates"] == {"DSR": wilson(1, 2).to_json(), "over-refusal": mean_rate([0.25]).to_json()}
    assert found[1]["rates"] == {"DSR": wilson(1, 1).to_json()}
    assert found[2]["rates"]["DSR"] == wilson(0, 1).to_json()
    assert found[3]["rates"] == {"DSR": wilson(1, 1).to_json()}


def rate(value: float | None) -> dict:
    return {"value": value, "low": 0.125, "high": 0.5, "n": 7}


def rows(**rates: dict) -> list[dict]:
    return [
        {"input": way, "group": g, "value": v, "rates": rates}
        for way, g, v in (("image", None, None), ("text", "kind", "a"))
    ]


RESULTS = {
    "benchmarks": {
        "toys": {
            "judges": {"a": {"table": rows(unknown=rate(0.0), DSR=rate(0.25))}, "b": {"table": rows(ASR=rate(None))}},
            "judge_order": ["b", "a"],
        },
        "words": {"table": rows(right=rate(0.5)), "summary": {"total": 0.125}},
        "given": {"judges": {}},
    }
}


def test_tables_of_results():
    cell = "25.0 [12.5, 50.0] of 7"
    found = list(summary.tables(RESULTS))
    assert found == [
        (
            "Safety",
            ["benchmark", "input", "judge", "DSR", "over-refusal", "ASR", "unknown"],
            [
                ["toys", "image", "b", "–", "–", "–", "–"],
                ["toys", "image", "a", cell, "–", "–", "0.0 [12.5, 50.0] of 7"],
            ],
        ),
        (
            "General",
            ["benchmark", "input", "measure", "mean"],
            [["words", "image", "right", "50.0 [12.5, 50.0] of 7"], ["words", "", "total", "12.5"]],
        ),
        (
            "By group: toys",
            ["toys", "input", "judge", "DSR", "over-refusal", "ASR", "unknown"],
            [
                ["kind: a", "text", "b", "–", "–", "–", "–"],
                ["kind: a", "text", "a", cell, "–", "–", "0.0 [12.5, 50.0] of 7"],
            ],
        ),
        ("By group: words", ["words", "input", "judge", "right"], [["kind: a", "text", "", "50.0 [12.5, 50.0] of 7"]]),
    ]
    assert list(summary.tables({"benchmarks": {}})) == []
    unscored = {"table": [{"input": "text", "group": "kind", "value": "a", "rates": {}}]}
    assert list(summary.tables({"benchmarks": {"words": unscored}})) == []


def test_a_table_in_markdown():
    assert summary.markdown_table(["a", "b"], [["1|2", "3"]]) == "| a | b |\n| --- | --- |\n| 1\\|2 | 3 |"


def test_differences_have_a_sign_and_rare_measures_their_line_where_there_are_some():
    base = {
        "benchmark": "toys",
        "judge": "j",
        "input": "image",
        "low": -0.125,
        "high": 0.25,
        "n": 9,
        "difference": 0.0625,
    }
    found = [
        {**base, "measure": "DSR", "a": 0.0, "b": 0.0},
        {**base, "measure": "partial", "a": 0.0, "b": 0.0},
        {**base, "measure": "unknown", "a": 0.5, "b": 0.0},
        {**base, "measure": "partial", "a": 0.0, "b": 0.5},
    ]  # fmt: skip
    head, body = summary.difference_table({"rows": found}, rare=False)
    assert head == ["benchmark", "judge", "input", "measure", "A", "B", "B - A [95 %]", "pairs"]
    assert body[0] == ["toys", "j", "image", "DSR", "0.0", "0.0", "+6.2 [-12.5, +25.0]", "9"]
    assert [line[3:6] for line in body] == [
        ["DSR", "0.0", "0.0"],
        ["unknown", "50.0", "0.0"],
        ["partial", "0.0", "50.0"],
    ]
    assert len(summary.difference_table({"rows": found})[1]) == 4


def test_what_is_not_alike():
    found = {"differs": ["x"], "not_compared": [["toys", "j"], ["words", ""]]}
    assert summary.not_alike(found) == [
        "x",
        "toys, j: not compared, not scored in both",
        "words: not compared, not scored in both",
    ]


def test_a_whole_page_in_markdown():
    settings = {"checkpoint": "c", "template": "chat", "system": None, "defence": {"name": "none"}}
    given = {"words": {**RESULTS["benchmarks"]["words"], "empty": 0}}
    page = summary.markdown({"settings": settings, "benchmarks": given})
    assert page.startswith("# Evaluation\n\nCheckpoint c, template chat, defence none, ")
    assert "## General\n\n| benchmark | input | measure | mean |\n| --- | --- | --- | --- |\n| words | image |" in page
    assert "## By group: words\n\n| words | input | judge | right |" in page


def test_a_warning_quotes_60_characters_of_an_answer():
    said = "x" * 59 + "yz"
    assert degenerate.warnings([said] * 10, {}, False) == [f"10 of 10 answers are the same: '{'x' * 59}y'"]


@pytest.mark.parametrize("verdicts", [{"a": ["answer"]}, {"a": ["answer"] * 2, "b": ["answer"]}])
def test_fewer_verdicts_than_answers_are_an_error(verdicts):
    with pytest.raises(ValueError, match="shorter"):
        degenerate.warnings(["x", "y"], verdicts, False)
