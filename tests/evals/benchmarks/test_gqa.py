"""GQA against files of its form."""

import json

import pytest
from general_support import SHORT, error, lines, load, png, question, write

from tga_jax.errors import UserError
from tga_jax.evals.benchmarks import (
    gqa,
)


@pytest.fixture
def gqa_folder(tmp_path):
    rows = [question("201", "a.png", f"What?\n{SHORT}"), question("1", "a.png", "Is it?")]
    write(tmp_path / "llava_gqa_testdev_balanced.jsonl", lines(rows))
    known = {"1": {"answer": "yes", "question": "Is it?"}, "201": {"answer": "cup"}}
    write(tmp_path / "data/testdev_balanced_questions.json", json.dumps(known))
    write(tmp_path / "data/images/a.png", png())
    return tmp_path


def test_gqa(gqa_folder, tmp_path):
    samples = load(gqa, gqa_folder)
    assert [(s.id, s.question, s.target) for s in samples] == [
        ("201", f"<image>\nWhat?\n{SHORT}", "cup"),
        ("1", f"<image>\nIs it?\n{SHORT}", "yes"),
    ]
    scores = {
        a: gqa.BENCHMARK.score(samples[0], a)["accuracy"] for a in ("Cup.", "cup", " CUP..\n", "cups", "a cup", "")
    }
    assert scores == {"Cup.": 1, "cup": 1, " CUP..\n": 1, "cups": 0, "a cup": 0, "": 0}
    gqa.BENCHMARK.export(list(zip(samples, ["Cup.", "No"], strict=True)), tmp_path / "out", tmp_path)
    assert json.loads((tmp_path / "out/testdev_balanced_predictions.json").read_text()) == [
        {"questionId": "201", "prediction": "cup"},
        {"questionId": "1", "prediction": "no"},
    ]


def test_gqa_without_answers(gqa_folder):
    (gqa_folder / "data/testdev_balanced_questions.json").unlink()
    samples = load(gqa, gqa_folder)
    assert [s.target for s in samples] == [None, None]
    assert gqa.BENCHMARK.score(samples[0], "cup") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"1": {"answer": "yes"}}', "1 ids do not join, such as '201', a question without a label"),
        ('{"1": {"answer": true}}', "questions.json: question '1': `answer` is true, expected a string"),
        ('[{"answer": "yes"}]', "questions.json: is a list, expected GQA's questions by their ids, an object"),
        ("{", "questions.json: cannot be read"),
    ],
)
def test_gqa_bad_answers(gqa_folder, text, message):
    write(gqa_folder / "data/testdev_balanced_questions.json", text)
    error(gqa, gqa_folder, message)


def test_a_picture_that_is_none(gqa_folder):
    write(gqa_folder / "data/images/a.png", b"not a picture")
    with pytest.raises(UserError, match=r"a.png: cannot be read as an image"):
        load(gqa, gqa_folder)[0].images[0]()
