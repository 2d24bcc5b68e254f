"""VizWiz against files of its form."""

import json

import pytest
from general_support import edit, error, lines, load, png, question, write

from tga_jax.evals.benchmarks import vizwiz

INSTRUCTION = (
    "When the provided information is insufficient, respond with 'Unanswerable'.\n"
    "Answer the question using a single word or phrase."
)


def row(number, answers, kind, answerable):
    """answers: (answer, how many of the ten)."""
    said = [{"answer": a, "answer_confidence": "maybe"} for a, count in answers for _ in range(count)]
    image = f"VizWiz_val_0000000{number}.jpg"
    asked = {"image": image, "question": f"what is {number}, on the CD?", "answers": said}
    return asked | {"answer_type": kind, "answerable": answerable}


ROWS = [
    row(0, [("Basil leaves", 2), ("basil", 7), ("green", 1)], "other", 1),
    row(1, [("unanswerable", 8), ("a wall", 2)], "unanswerable", 0),
    row(2, [("yes", 5), ("unanswerable", 5)], "yes/no", 1),
]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "val.json", json.dumps(ROWS))
    for r in ROWS:
        write(tmp_path / "val" / r["image"], png())
    return tmp_path


def test_vizwiz_val(folder):
    samples = load(vizwiz, folder)
    assert [(s.id, s.question, s.groups) for s in samples] == [
        (r["image"], f"<image>\nWhat is {n}, on the cd?\n{INSTRUCTION}", {"answer_type": r["answer_type"]})
        for n, r in enumerate(ROWS)
    ]
    assert samples[0].images[0]().size == (2, 2)

    def scores(answer):
        return [vizwiz.BENCHMARK.score(s, answer)["accuracy"] for s in samples]

    assert scores("Basil.") == [1, 0, 0]
    assert scores("green") == pytest.approx([0.3, 0, 0])
    assert scores("basil leaves") == pytest.approx([(8 * 2 + 2 * 1) / 3 / 10, 0, 0])
    assert scores("Unanswerable") == [0, 1, 1]


def test_saying_unanswerable(folder):
    targets = [s.target for s in load(vizwiz, folder)]

    def summary(*answers):
        return vizwiz.BENCHMARK.summarize(list(zip(targets, answers, strict=True)))

    named = ("unanswerable_precision", "unanswerable_recall", "unanswerable_f1")
    assert summary("basil", "unanswerable", "yes") == dict(zip(named, (1, 1, 1), strict=True))
    assert summary("Unanswerable.", "UNANSWERABLE", "no") == pytest.approx(
        dict(zip(named, (0.5, 1, 2 / 3), strict=True))
    )
    assert summary("basil", "It is unanswerable", "no") == dict(zip(named, (0, 0, 0), strict=True))


def test_vizwiz_test_split(tmp_path):
    rows = [question(n, f"VizWiz_test_0000000{n}.jpg", f"What is {n}?\n{INSTRUCTION}") for n in (1, 0)]
    write(tmp_path / "llava_test.jsonl", lines(rows))
    for r in rows:
        write(tmp_path / "test" / r["image"], png())
    samples = load(vizwiz, tmp_path)
    assert [(s.id, s.question, s.target) for s in samples] == [
        (r["image"], f"<image>\n{r['text']}", None) for r in rows
    ]
    assert vizwiz.BENCHMARK.score(samples[0], "cup") == {}
    assert vizwiz.BENCHMARK.summarize([(None, "cup")] * 2) == {}
    vizwiz.BENCHMARK.export(list(zip(samples, ["The cup.", "Unanswerable"], strict=True)), tmp_path / "out", tmp_path)
    assert json.loads((tmp_path / "out/predictions.json").read_text()) == [
        {"image": "VizWiz_test_00000001.jpg", "answer": "cup"},
        {"image": "VizWiz_test_00000000.jpg", "answer": "unanswerable"},
    ]
    write(tmp_path / "llava_test.jsonl", lines([*rows, rows[0] | {"question_id": 5}]))
    error(vizwiz, tmp_path, "llava_test.jsonl: question 'VizWiz_test_00000001.jpg' is there twice")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("VizWiz_val_00000001", "VizWiz_val_00000000", "val.json: question 'VizWiz_val_00000000.jpg' is there twice"),
        ("VizWiz_val_00000001", "VizWiz_val_00000009", "val/VizWiz_val_00000009.jpg: no such picture"),
        ('"answerable": 0', '"answerable": 2', "val.json: [1]: `answerable` is 2, expected 0 or 1"),
        ('"answerable": 0', '"answerable": "no"', 'val.json: [1]: `answerable` is "no", expected a whole number'),
        (
            '{"answer": "a wall", "answer_confidence": "maybe"}, ',
            "",
            "[1]: `answers` has 9 entries, expected 10 answers",
        ),
        ('"question": "what is 1, on the CD?"', '"question": ""', "[1]: '' as `question`"),
        ('"answer_type": "unanswerable"', '"kind": "unanswerable"', "[1]: no `answer_type`, expected a string"),
    ],
)
def test_bad_vizwiz(folder, old, new, message):
    edit(folder / "val.json", old, new)
    error(vizwiz, folder, message)
