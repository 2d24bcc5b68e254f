"""VQAv2 against files of its form."""

import json

import pytest
from general_support import SHORT, edit, error, lines, load, png, question, write

from tga_jax.evals.benchmarks import (
    vqav2,
)


@pytest.fixture
def vqa_folder(tmp_path):
    rows = [question(10, "a.png", f"What?\n{SHORT}"), question(2, "a.png", "How many?", category="default")]
    write(tmp_path / "llava_vqav2_mscoco_val2014.jsonl", lines(rows))
    answers = {2: ["two"] * 4 + ["3"] * 6, 10: ["cup"] * 10}
    annotations = [
        {"question_id": i, "answers": [{"answer": a, "answer_id": n} for n, a in enumerate(own)]}
        for i, own in answers.items()
    ]
    write(tmp_path / "v2_mscoco_val2014_annotations.json", json.dumps({"annotations": annotations}))
    write(tmp_path / "val2014/a.png", png())
    return tmp_path


def test_vqav2_samples(vqa_folder):
    samples = load(vqav2, vqa_folder)
    assert [(s.id, s.question) for s in samples] == [
        ("10", f"<image>\nWhat?\n{SHORT}"),
        ("2", f"<image>\nHow many?\n{SHORT}"),
    ]
    assert samples[1].target == ["two"] * 4 + ["3"] * 6
    assert vqav2.BENCHMARK.score(samples[0], "A cup.") == {"accuracy": 1.0}
    assert vqav2.BENCHMARK.score(samples[1], "2") == {"accuracy": 1.0}
    assert vqav2.BENCHMARK.score(samples[1], "four") == {"accuracy": 0.0}


def test_vqav2_without_annotations_has_an_export_alone(vqa_folder, tmp_path):
    (vqa_folder / "v2_mscoco_val2014_annotations.json").unlink()
    samples = load(vqav2, vqa_folder)
    assert [s.target for s in samples] == [None, None]
    assert vqav2.BENCHMARK.score(samples[0], "cup") == {}
    vqav2.BENCHMARK.export(list(zip(samples, ["A Cup.", ""], strict=True)), tmp_path / "out", tmp_path)
    assert json.loads((tmp_path / "out/predictions.json").read_text()) == [
        {"question_id": 10, "answer": "cup"},
        {"question_id": 2, "answer": ""},
    ]


def test_vqav2_export_has_all_questions_of_the_servers_split(vqa_folder, tmp_path):
    """The server refuses a part; LLaVA's script fills up with empty answers."""

    def exported():
        pairs = [(sample, "Cup.") for sample in load(vqav2, vqa_folder)]
        vqav2.BENCHMARK.export(pairs, tmp_path / "out", vqa_folder)
        return {
            row["question_id"]: row["answer"] for row in json.loads((tmp_path / "out/predictions.json").read_text())
        }

    write(vqa_folder / "test2015/b.png", png())
    asked = [question(n, "b.png", "?") for n in (5, 6, 7)]
    write(vqa_folder / "llava_vqav2_mscoco_test2015.jsonl", lines(asked))
    assert exported() == {10: "cup", 2: "cup"}  # val2014 has nothing to do with them
    (vqa_folder / "llava_vqav2_mscoco_val2014.jsonl").unlink()
    write(vqa_folder / "llava_vqav2_mscoco_test-dev2015.jsonl", lines(asked[1:2]))
    assert exported() == {5: "", 6: "cup", 7: ""}
    (vqa_folder / "llava_vqav2_mscoco_test2015.jsonl").unlink()
    assert exported() == {6: "cup"}


def test_vqav2_splits(vqa_folder):
    write(vqa_folder / "test2015/b.png", png())
    write(vqa_folder / "llava_vqav2_mscoco_test2015.jsonl", lines([question(5, "b.png", "?")]))
    assert [s.id for s in load(vqav2, vqa_folder)] == ["10", "2"]
    (vqa_folder / "llava_vqav2_mscoco_val2014.jsonl").unlink()
    assert [(s.id, s.target) for s in load(vqav2, vqa_folder)] == [("5", None)]
    write(vqa_folder / "llava_vqav2_mscoco_test-dev2015.jsonl", lines([question(6, "b.png", "?")]))
    assert [s.id for s in load(vqav2, vqa_folder)] == ["6"]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("annotations.json", '"question_id": 2', '"question_id": 3', "2 ids do not join, such as '2', a question with"),
        ("annotations.json", '"question_id": 2', '"question_id": 10', "label '10' is there twice"),
        ("annotations.json", '"answer": "two"', '"answer": 2', "annotations[0]: `answer` is 2, expected a string"),
        ("annotations.json", '{"answer": "two", "answer_id": 0}, ', "", "annotations[0]: `answers` has 9 entries"),
        ("annotations.json", '{"answer": "two", "answer_id": 0}', "null", "annotations[0]: null, expected an object"),
        ("annotations.json", '"annotations"', '"questions"', "no `annotations`, expected a list"),
        ("annotations.json", '{"annotations"', '"annotations"', "cannot be read (Extra data"),
        ("val2014.jsonl", '"question_id": 2', '"question_id": 10', "question '10' is there twice"),
        ("val2014.jsonl", '"question_id": 2', '"question_id": "x"', "line 2: `question_id` is 'x', expected a whole"),
        ("val2014.jsonl", '"question_id": 2', '"id": 2', "line 2: no `question_id`, expected a string or a whole"),
        ("val2014.jsonl", "a.png", "b.png", "val2014/b.png: no such picture"),
    ],
)
def test_vqav2_bad_files(vqa_folder, file, old, new, message):
    [path] = vqa_folder.glob(f"*{file}")
    edit(path, old, new)
    error(vqav2, vqa_folder, message)


def test_vqav2_without_questions(tmp_path):
    error(vqav2, tmp_path, "llava_vqav2_mscoco_test-dev2015.jsonl: no such file, expected questions in JSON lines")


def test_questions_that_are_not_utf8(vqa_folder):
    write(vqa_folder / "llava_vqav2_mscoco_val2014.jsonl", b'{"text": "\xff"}')
    error(vqav2, vqa_folder, "llava_vqav2_mscoco_val2014.jsonl: cannot be read ('utf-8' codec")


def test_a_line_that_is_no_object(vqa_folder):
    write(vqa_folder / "llava_vqav2_mscoco_val2014.jsonl", "[1]\n")
    error(vqav2, vqa_folder, "llava_vqav2_mscoco_val2014.jsonl: line 1: [1], expected an object")


def test_a_line_separator_within_a_question_ends_no_line(vqa_folder):
    row = question(10, "a.png", "What\u2028now?")
    (vqa_folder / "v2_mscoco_val2014_annotations.json").unlink()
    write(vqa_folder / "llava_vqav2_mscoco_val2014.jsonl", json.dumps(row, ensure_ascii=False))
    assert load(vqav2, vqa_folder)[0].question == f"<image>\nWhat\u2028now?\n{SHORT}"
