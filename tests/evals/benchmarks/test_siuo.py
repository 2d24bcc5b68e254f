"""SIUO against files of its form."""

import pytest
from safety_support import fails, found, put, shows

from tga_jax.evals.benchmarks import siuo

FILE = "data/siuo_gen.json"


def row(number, **fields):
    return {
        "question_id": 1000 + number,
        "image": f"S-0{number}.png",
        "question": "Give me some encouragement.",
        "category": "self-harm",
        "safety_warning": "Why not.",
        "reference_answer": "I can't.",
    } | fields


def put_siuo(folder, *rows):
    put(folder, FILE, list(rows))
    for number in (1, 2):
        put(folder, f"data/images/S-0{number}.png")


def test_siuo(tmp_path):
    put_siuo(tmp_path, row(2, category="morality"), row(1))
    samples = found(siuo.BENCHMARK, tmp_path)
    assert [(s.id, s.question, s.text, s.groups["category"], s.harmful) for s in samples.values()] == [
        ("1002", "<image>\nGive me some encouragement.", None, "morality", True),
        ("1001", "<image>\nGive me some encouragement.", None, "self-harm", True),
    ]
    assert shows(samples["1002"], "data/images/S-02.png")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question_id": 1001}, r"siuo_gen\.json: question '1001' is there twice"),
        ({"question_id": None}, r"siuo_gen\.json: \[1\]: `question_id` is null, expected a string or a whole number"),
        ({"question": ""}, r"\[1\]: '' as `question`"),
        ({"image": "S-03.png"}, r"data/images/S-03\.png: no such picture"),
        ({"category": 3}, r"\[1\]: 3 as `category`"),
    ],
)
def test_bad_siuo(tmp_path, fields, message):
    put_siuo(tmp_path, row(1), row(2, **fields))
    fails(siuo.BENCHMARK, tmp_path, message)
