import pytest

from tga_jax.errors import UserError
from tga_jax.evals.benchmark import BenchmarkSample
from tga_jax.evals.vqa import accuracy, checked_answers, normalize, score


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("cup", "cup"),
        (" A Red  Cup\n", "red cup"),
        ("two\tcups", "2 cups"),
        # Commas and periods.
        ("2,000", "2000"),
        ("1, 2", "1 2"),
        ("a,b", "ab"),
        ("3.5", "3.5"),
        (".5", ".5"),
        ("5.", "5"),
        ("u.s.", "us"),
        ("U.S.A", "usa"),
        ("v.2", "v.2"),
        ("...", ""),
        # Contractions.
        ("dont", "don't"),
        ("don't", "don't"),
        ("Im", "im"),
        ("whats up", "what's up"),
        ("what's up", "what 's up"),
        ("somebody'd", "somebodyd"),
        ("oclock", "o'clock"),
        ("yall'd've", "y'all'd've"),
        # Articles.
        ("the", ""),
        ("a", ""),
        ("an", ""),
        ("The United States", "united states"),
        ("theater", "theater"),
        ("vitamin a", "vitamin"),
        # Numbers.
        ("none", "0"),
        ("zero", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("twenty-one", "twenty 1"),
        ("someone", "someone"),
        # Punctuation parts words, unless one such mark touches a blank.
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("black/white /red", "blackwhite red"),
        ("t-shirt", "t shirt"),
        ("t-shirt- ", "t shirt"),  # a blank at the end touches nothing
        ("(yes)", "yes"),
        ("yes!", "yes"),
        ("really?", "really"),
        ("50%", "50%"),
        ("$5:30", "$5:30"),
        ("a_b\\c", "b c"),
        ("", ""),
        (" \n\t", ""),
    ],
)
def test_normalize(answer, expected):
    assert normalize(answer) == expected


def ten(**counts):
    answers = [answer for answer, count in counts.items() for _ in range(count)]
    return answers + [f"other{i}" for i in range(10 - len(answers))]


@pytest.mark.parametrize(
    ("matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0), (10, 1.0)]
)
def test_accuracy_averages_over_nine_of_ten(matches, expected):
    assert accuracy("Cup.", ten(cup=matches)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "answers", "expected"),
    [
        ("2", ten(two=2, Two=2), 1.0),
        ("dont", ["don't"] * 2 + ["no"] * 8, 0.6),
        ("", ten(cup=9), 0.0),
        ("", ["a", "the", "an", "cup", "cup", "cup", "cup", "cup", "cup", "cup"], 0.9),
        ("2000", ["2,000"] * 10, 1.0),
        ("cups", ten(cup=10), 0.0),
        ("cup and saucer", ten(cup=10), 0.0),
    ],
)
def test_accuracy_compares_normalized_answers(answer, answers, expected):
    assert accuracy(answer, answers) == pytest.approx(expected)


def test_score_of_a_sample_without_answers_is_nothing():
    assert score(BenchmarkSample("1", "?"), "cup") == {}
    assert score(BenchmarkSample("1", "?", target=ten(cup=1)), "cup") == pytest.approx({"accuracy": 0.3})


@pytest.mark.parametrize("answers", [[], ["cup"] * 9, ["cup"] * 11, ["cup"] * 9 + [3]])
def test_other_than_ten_strings_is_an_error(answers):
    with pytest.raises(UserError, match=rf"^f.json: data\[3\]: `answers` has {len(answers)} entries, expected 10"):
        checked_answers(answers, "f.json: data[3]")
