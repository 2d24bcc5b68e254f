"""ScienceQA against files of its form."""

import json

import pytest
from general_support import LETTER, edit, error, load, png, write

from tga_jax.evals.benchmarks import (
    science_qa,
)


@pytest.fixture
def science_folder(tmp_path):
    def row(identity, text, **more):
        turns = [{"from": "human", "value": text}, {"from": "gpt", "value": "B"}]
        return {"id": identity, "conversations": turns, **more}

    rows = [
        row("4", "Which?\nA. one\nB. two"),
        row("5", "Context: it\nWhat?\nA. x\nB. y\n<image>", image="5/image.png"),
    ]
    write(tmp_path / "llava_test_CQM-A.json", json.dumps(rows))
    problems = {
        "4": {"choices": ["one", "two"], "answer": 1, "subject": "language science"},
        "5": {"choices": ["x", "y"], "answer": 0, "subject": "natural science"},
        "6": {"choices": [], "answer": 9, "subject": "of another split"},
    }
    write(tmp_path / "problems.json", json.dumps(problems))
    write(tmp_path / "pid_splits.json", json.dumps({"train": ["6"], "test": ["5", "4"]}))
    write(tmp_path / "images/test/5/image.png", png())
    return tmp_path


def test_science_qa_samples(science_folder):
    text, seen = load(science_qa, science_folder)
    assert (text.id, text.question, text.images, text.target) == ("4", f"Which?\nA. one\nB. two\n{LETTER}", (), "B")
    assert text.groups == {"image": "without", "subject": "language science"}
    assert (seen.id, seen.question) == ("5", f"<image>\nContext: it\nWhat?\nA. x\nB. y\n{LETTER}")
    assert (seen.groups, seen.target) == ({"image": "with", "subject": "natural science"}, "A")
    assert seen.images[0]().size == (2, 2)


def test_science_qa_scores(science_folder):
    sample = load(science_qa, science_folder)[0]
    assert science_qa.BENCHMARK.score(sample, "B. two") == {"accuracy": 1.0, "unparsed": 0.0}
    assert science_qa.BENCHMARK.score(sample, "two") == {"accuracy": 0.0, "unparsed": 1.0}
    assert science_qa.BENCHMARK.summarize([("A", "A"), ("B", "A"), ("C", "?"), ("D", "The answer is D.")]) == {
        "accuracy": 0.5
    }


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("pid_splits.json", '"5", ', "", "1 ids do not join, such as '5', a question without a label"),
        ("pid_splits.json", '["5"', '["7", "5"', "1 ids do not join, such as '7', a label without a question"),
        ("pid_splits.json", '"test"', '"val"', "pid_splits.json: no `test`, expected a list"),
        ("problems.json", '"5"', '"7"', "problems.json: no `5`, expected an object"),
        ("problems.json", '"answer": 1', '"answer": 2', "problems.json: problem '4': `answer` is 2 of 2 choices"),
        ("problems.json", '"answer": 1', '"answer": -1', "problems.json: problem '4': `answer` is -1 of 2 choices"),
        ("problems.json", '"answer": 1', '"answer": "B"', "problems.json: problem '4': `answer` is \"B\", expected a"),
        ("llava_test_CQM-A.json", '"5/image.png"', '"5/other.png"', "images/test/5/other.png: no such picture"),
        ("llava_test_CQM-A.json", "\\n<image>", "", "has 0 <image> and 1 images"),
    ],
)
def test_science_qa_bad_files(science_folder, file, old, new, message):
    edit(science_folder / file, old, new)
    error(science_qa, science_folder, message)
