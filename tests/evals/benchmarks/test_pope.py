"""POPE against files of its form."""

import json
import random

import pytest
from general_support import SHORT, edit, error, lines, load, png, question, write

from tga_jax.evals.benchmarks import (
    pope,
)

# POPE. Ids as LLaVA has them: with an offset by category, where the label files count from 1 in each.
_POPE = [
    ("random", 10000001, "a.png", "Is there a cup in the image?", "yes"),
    ("random", 10000002, "a.png", "Is there a dog in the image?", "no"),
    ("popular", 20000001, "a.png", "Is there a dog in the image?", "yes"),
    ("adversarial", 1, "a.png", "Is there a dog in the image?", "no"),
    ("adversarial", 2, "b.png", "Is there a dog in the image?", "yes"),
]


@pytest.fixture
def pope_folder(tmp_path):
    asked = [question(i, image, f"{text}\n{SHORT}", category=c) for c, i, image, text, _ in _POPE]
    write(tmp_path / "llava_pope_test.jsonl", lines(asked))
    for category in ("random", "popular", "adversarial"):
        own = [(image, text, label) for c, _, image, text, label in _POPE if c == category]
        rows = [{"question_id": n, "image": i, "text": t, "label": b} for n, (i, t, b) in enumerate(own, 1)]
        write(tmp_path / f"coco/coco_pope_{category}.json", lines(rows))
    for name in ("a.png", "b.png"):
        write(tmp_path / "val2014" / name, png())
    return tmp_path


def test_pope_samples(pope_folder):
    samples = load(pope, pope_folder)
    assert [(s.id, s.groups, s.target) for s in samples] == [
        (str(i), {"category": c}, {"category": c, "label": label}) for c, i, _, _, label in _POPE
    ]
    assert samples[0].question == f"<image>\nIs there a cup in the image?\n{SHORT}"
    assert all(s.harmful is None and s.text is None and s.images[0]().size == (2, 2) for s in samples)


def test_pope_labels_join_whatever_their_order_and_ids(pope_folder):
    before = load(pope, pope_folder)
    path = pope_folder / "coco/coco_pope_adversarial.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    write(path, lines([{**row, "question_id": 7 - n} for n, row in enumerate(reversed(rows))]))
    asked = (pope_folder / "llava_pope_test.jsonl").read_text().splitlines()
    random.Random(1).shuffle(asked)
    write(pope_folder / "llava_pope_test.jsonl", "\n\n".join(asked))
    after = load(pope, pope_folder)
    assert {s.id: s.target for s in after} == {s.id: s.target for s in before}
    assert [s.id for s in after] != [s.id for s in before]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("coco/coco_pope_random.json", "a dog", "a cat", "2 ids do not join, such as 'a.png: Is there a cat"),
        ("coco/coco_pope_random.json", "a dog", "a cup", "label 'a.png: Is there a cup in the image?' is there twice"),
        ("coco/coco_pope_popular.json", '"yes"', '"Yes"', "popular.json: line 1: `label` is 'Yes', expected yes or no"),
        ("coco/coco_pope_popular.json", '"yes"', "1", "popular.json: line 1: `label` is 1, expected a string"),
        ("coco/coco_pope_popular.json", '"label"', '"answer"', "popular.json: line 1: no `label`, expected a string"),
        ("llava_pope_test.jsonl", "a cup", "a mug", "2 ids do not join, such as 'a.png: Is there a cup"),
        ("llava_pope_test.jsonl", "10000002", "10000001", "question '10000001' is there twice"),
        ("llava_pope_test.jsonl", '"popular"', '"rare"', "line 3: `category` is 'rare', expected one of random, popul"),
        ("llava_pope_test.jsonl", "20000001", "true", "line 3: `question_id` is true, expected a string or a whole"),
        ("llava_pope_test.jsonl", '"question_id": 1,', '"question_id" 1,', "line 4: not JSON"),
        ("llava_pope_test.jsonl", "b.png", "c.png", "c.png: no such picture"),
    ],
)
def test_pope_bad_files(pope_folder, file, old, new, message):
    if new == "c.png":
        edit(pope_folder / "coco/coco_pope_adversarial.json", old, new)
    edit(pope_folder / file, old, new)
    error(pope, pope_folder, message)


def test_pope_labels_of_another_commit(pope_folder):
    """The master branch asks other things: what to fetch instead stands behind the message."""
    edit(pope_folder / "coco/coco_pope_popular.json", "a dog", "a cat")
    error(pope, pope_folder, "coco_pope_popular.json: 2 ids do not join, such as 'a.png: Is there a cat in the image?'")
    error(pope, pope_folder, "; LLaVA's questions go with the labels of https://github.com/AoiDragon/POPE/tree/e3e3926")


def test_pope_without_a_file(pope_folder):
    (pope_folder / "coco/coco_pope_popular.json").unlink()
    error(pope, pope_folder, "coco_pope_popular.json: no such file, expected POPE's labels in JSON lines")


@pytest.mark.parametrize(
    ("answer", "said", "exact"),
    [
        ("Yes", "yes", "yes"),
        (" no\n", "no", "no"),
        ("No, there is no dog.", "no", None),
        ("There is, no, dog", "no", None),
        ("It is not there", "no", None),
        ("Yes. There is no cat.", "yes", None),
        ("NO", "yes", "no"),
        ("Nothing is there", "yes", None),
        ("I know it", "yes", None),
        ("there isn't", "yes", None),
        ("", "yes", None),
        (".No", "yes", None),
    ],
)
def test_pope_readers_of_answers(pope_folder, answer, said, exact):
    for sample in load(pope, pope_folder)[:2]:
        label = sample.target["label"]
        assert pope.BENCHMARK.score(sample, answer) == {
            "accuracy": float(said == label),
            "exact_match": float(exact == label),
        }


def test_pope_summary():
    answered = [
        *[("random", "yes", "Yes")] * 3,
        *[("random", "yes", "No")] * 1,
        *[("popular", "no", "Yes")] * 2,
        *[("popular", "no", "No")] * 4,
    ]
    pairs = [({"category": category, "label": label}, answer) for category, label, answer in answered]
    assert pope.BENCHMARK.summarize(pairs) == pytest.approx(
        {"precision": 3 / 5, "recall": 3 / 4, "f1": 2 / 3, "yes_ratio": 5 / 10, "f1_random": 6 / 7, "f1_popular": 0}
    )


def test_pope_summary_without_a_yes():
    pairs = [({"category": "random", "label": "no"}, "No")]
    figures = {"precision": 0, "recall": 0, "f1": 0, "yes_ratio": 0, "f1_random": 0}
    assert pope.BENCHMARK.summarize(pairs) == figures
