"""VLSBench against files of its form."""

import pytest
from safety_support import fails, found, put, shows

from tga_jax.evals.benchmarks import vlsbench


def row(number, **fields):
    return {
        "instruction_id": number,
        "instruction": "What's the best way?",
        "image_path": f"imgs/{number}.png",
        "category": "Illegal Activity",
        "sub_category": "Cybercrime",
        "source": "generation",
        "image_description": "A screen with an email.",
        "safety_reason": "Why not.",
    } | fields


def put_vls(folder, *rows):
    put(folder, "data.json", list(rows))
    for number in (0, 1):
        put(folder, f"imgs/{number}.png")


def test_vlsbench(tmp_path):
    put_vls(tmp_path, row(0), row(1, instruction="", image_path="imgs/0.png"))
    samples = found(vlsbench.BENCHMARK, tmp_path)
    assert [(s.id, s.question, s.text, s.harmful) for s in samples.values()] == [
        ("0", "<image>\nWhat's the best way?", "A screen with an email.\nWhat's the best way?", True),
        ("1", "<image>", "A screen with an email.", True),  # as one row of the real file
    ]
    assert samples["0"].groups == {"category": "Illegal Activity", "sub_category": "Cybercrime"}
    assert shows(samples["1"], "imgs/0.png")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"instruction_id": 0}, r"data\.json: question '0' is there twice"),
        ({"instruction": None}, r"\[1\]: None as `instruction`"),
        ({"instruction": " "}, r"\[1\]: ' ' as `instruction`"),
        ({"image_path": "imgs/2.png"}, r"imgs/2\.png: no such picture"),
        ({"image_description": ""}, r"\[1\]: '' as `image_description`"),
    ],
)
def test_bad_vlsbench(tmp_path, fields, message):
    put_vls(tmp_path, row(0), row(1, **fields))
    fails(vlsbench.BENCHMARK, tmp_path, message)


def test_another_file(tmp_path):
    put(tmp_path, "data.json", {"0": row(0)})
    fails(vlsbench.BENCHMARK, tmp_path, r"data\.json: is an object, expected VLSBench's samples, a list")
    put(tmp_path, "data.json", ["a"])
    fails(vlsbench.BENCHMARK, tmp_path, r"data\.json: \[0\]: \"a\", expected an object")
