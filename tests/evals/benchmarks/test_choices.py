import pytest

from tga_jax.evals.benchmark import BenchmarkSample
from tga_jax.evals.choices import INSTRUCTION, letter, prompt, score


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("A", "A"),
        (" E\n", "E"),
        ("A ", "A"),
        ("B.", "B"),
        ("B. a cup", "B"),
        ("C.\na cup", "C"),
        ("D\nbecause it is", "D"),
        ("The answer is A.", "A"),
        ("The answer is A", "A"),
        ("So. The answer is C, a cup", "C"),
        ("The answer is B or so. The answer is D.", None),
        ("The answer is B. Indeed: The answer is B.", "B"),
        ("A. The answer is B.", "A"),
        ("The answer is Apple", None),
        ("The answer is Apple. The answer is B", "B"),
        ("the answer is A", None),
        ("F", None),
        ("a", None),
        ("AB", None),
        ("A cup", None),
        ("B is the run-on sentence.", None),
        ("A.cup", None),
        ("(A)", None),
        ("A)", None),
        ("cup", None),
        ("", None),
    ],
)
def test_letter(answer, expected):
    assert letter(answer) == expected


def test_prompt():
    assert prompt("What?", ["cup", "A. mug"]) == f"What?\nA. cup\nB. A. mug\n{INSTRUCTION}"


def test_prompt_says_the_instruction_once():
    assert prompt(f"{INSTRUCTION} What?", ["cup", "mug"]) == f"{INSTRUCTION} What?\nA. cup\nB. mug"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("B", {"accuracy": 1.0, "unparsed": 0.0}),
        ("A", {"accuracy": 0.0, "unparsed": 0.0}),
        ("mug", {"accuracy": 0.0, "unparsed": 1.0}),
        ("", {"accuracy": 0.0, "unparsed": 1.0}),
    ],
)
def test_score(answer, expected):
    assert score(BenchmarkSample("1", "?", target="B"), answer) == expected


def test_score_of_a_sample_without_an_answer_is_nothing():
    assert score(BenchmarkSample("1", "?"), "B") == {}
