"""SEED-Bench against files of its form."""

import json

import pytest
from general_support import LETTER, edit, error, load, png, write

from tga_jax.evals.benchmarks import (
    seed_bench,
)


@pytest.fixture
def seed_folder(tmp_path):
    def row(identity, kind, **more):
        texts = {f"choice_{c}": f"option {c}" for c in "abcd"}
        own = {"question_id": identity, "question_type_id": kind, "data_type": "image", "data_id": "1_2", "answer": "C"}
        return texts | own | {"question": f"What of {identity}?"} | more

    rows = [row("101", 2, choice_b=7), row("v1", 10, data_type="video", data_id=["x"]), row("102", 1, answer="A")]
    types = {"Scene Understanding": 1, "Instance Identity": 2, "Action Recognition": 10}
    write(tmp_path / "SEED-Bench.json", json.dumps({"questions": rows, "question_type": types}))
    write(tmp_path / "SEED-Bench-image/1_2", png())
    return tmp_path


def test_seed_bench(seed_folder):
    samples = load(seed_bench, seed_folder)
    assert [(s.id, s.groups, s.target) for s in samples] == [
        ("101", {"question_type": "Instance Identity"}, "C"),
        ("102", {"question_type": "Scene Understanding"}, "A"),
    ]
    assert samples[0].question == (f"<image>\nWhat of 101?\nA. option a\nB. 7\nC. option c\nD. option d\n{LETTER}")
    assert samples[0].images[0]().size == (2, 2)
    assert seed_bench.BENCHMARK.score(samples[0], "C") == {"accuracy": 1.0, "unparsed": 0.0, "exact_match": 1.0}
    assert seed_bench.BENCHMARK.score(samples[0], "C. 7") == {"accuracy": 1.0, "unparsed": 0.0, "exact_match": 0.0}
    assert seed_bench.BENCHMARK.score(samples[0], "option c") == {"accuracy": 0.0, "unparsed": 1.0, "exact_match": 0.0}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"question_type_id": 2',
            '"question_type_id": 3',
            "questions[0]: `question_type_id` is 3, expected a number of",
        ),
        ('"answer": "C"', '"answer": "E"', "questions[0]: `answer` is 'E', expected one of A, B, C, D"),
        ('"answer": "C"', '"answer": ""', "questions[0]: `answer` is '', expected one of A, B, C, D"),
        ('"choice_c"', '"choice_e"', "questions[0]: no `choice_c`, expected a string or a whole number"),
        ('"image"', '"Single Image"', "questions[0]: `data_type` is 'Single Image', expected image or video, as in"),
        ('"data_type": "image"', '"data_type": 1', "questions[0]: `data_type` is 1, expected a string"),
        ('"102"', '"101"', "question '101' is there twice"),
        ('"1_2"', '"1_3"', "SEED-Bench-image/1_3: no such picture"),
        ('"question_type": {', '"types": {', "SEED-Bench.json: no `question_type`, expected an object"),
    ],
)
def test_seed_bench_bad_files(seed_folder, old, new, message):
    edit(seed_folder / "SEED-Bench.json", old, new)
    error(seed_bench, seed_folder, message)
