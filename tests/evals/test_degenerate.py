import pytest

from tga_jax.evals.degenerate import FEW, is_empty, warnings


@pytest.mark.parametrize(
    ("answer", "empty"),
    [("", True), (" \n", True), ("!!!!", True), ("___", True), ("0", False), ("No.", False), ("\u6c34", False)],
)
def test_empty_is_without_letter_and_digit(answer, empty):
    assert is_empty(answer) == empty


DIFFERENT = [f"answer {n}" for n in range(FEW)]


def test_nothing_is_wrong():
    assert warnings([], {}, False) == []
    assert warnings([], {"a": []}, True) == []
    assert warnings(DIFFERENT, {"a": ["answer"] * FEW}, False) == []
    assert warnings(DIFFERENT + [""] * FEW, {}, False) == []  # a half is not more than a half


def test_empty_answers():
    assert warnings(DIFFERENT + [""] * (FEW + 1), {}, False) == ["11 of 21 answers are empty"]
    assert warnings(DIFFERENT + ["!"] * FEW, {}, False, 0.4) == ["10 of 20 answers are empty"]
    assert warnings([""], {"a": ["unknown"]}, False) == ["1 of 1 answers are empty"]  # and the judge is not to blame
    assert warnings([""] * 99, {}, True, 1.0) == []


def test_answers_that_are_the_same():
    answers = DIFFERENT + ["a cat", " a cat\n"] * FEW
    assert warnings(answers, {}, False) == ["20 of 30 answers are the same: 'a cat'"]
    assert warnings(answers, {}, False, 0.7) == []
    assert warnings(["a cat"] * (FEW - 1), {}, False) == []  # too few to tell


def test_refusals_may_be_the_same():
    answers = ["I can't help with that."] * FEW
    assert warnings(answers, {"a": ["refusal"] * FEW, "b": ["answer"] * FEW}, False) == []
    assert warnings(answers, {"b": ["answer"] * FEW}, False) == [
        '10 of 10 answers are the same: "I can\'t help with that."'
    ]


def test_yes_may_be_said_often():
    assert warnings(["yes"] * 99 + ["no"], {}, True) == []
    assert warnings(["yes"] * 100, {}, True) == ["100 of 100 answers are the same: 'yes'"]


def test_answers_that_a_judge_cannot_tell():
    verdicts = {"a": ["answer"] * FEW, "b": ["unknown"] * 6 + ["refusal"] * 4}
    assert warnings(DIFFERENT, verdicts, False) == ["6 of 10 answers could not be judged by b"]
    assert warnings(DIFFERENT, verdicts, False, 0.6) == []
