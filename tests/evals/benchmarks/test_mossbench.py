"""MOSSBench against files of its form."""

import pytest
from safety_support import fails, found, put, shows

from tga_jax.evals.benchmarks import (
    mossbench,
)


def moss_row(number, **fields):
    return {
        "image": f"images/{number}.png",
        "short description": "short",
        "question": "What fun is this?",
        "metadata": {"over": "type 1", "human": 0, "child": 1, "syn": 1, "ocr": 0, "harm": [7]},
        "pid": str(number),
        "description": "long",
    } | fields


def put_moss(folder, rows):
    put(folder, "data/images_information/information.json", rows)
    for number in range(4):
        put(folder, f"data/images/{number}.png")


def test_mossbench(tmp_path):
    rows = {
        "1": moss_row(1),
        "2": moss_row(2, description="", metadata={"over": "type 3"}),
        "3": moss_row(3, description="") | {"short description": ""},
    }
    put_moss(tmp_path, rows)
    samples = found(mossbench.BENCHMARK, tmp_path)
    assert [(s.id, s.text, s.groups["over"], s.harmful) for s in samples.values()] == [
        ("1", "long\nWhat fun is this?", "type 1", False),
        ("2", "short\nWhat fun is this?", "type 3", False),
        ("3", None, "type 1", False),
    ]
    assert samples["2"].question == "<image>\nWhat fun is this?"
    assert shows(samples["2"], "data/images/2.png")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (moss_row(1, question=None), r"information\.json: sample 1: None as `question`"),
        (moss_row(1, question="See <image>"), r"sample 1: 'See <image>' as `question`, expected text without <image>"),
        (moss_row(1, metadata={}), r"sample 1: None as `over`"),
        (moss_row(1, metadata=None), r"sample 1: None as `over`"),
        (moss_row(1, description=7), r"sample 1: 7 as `description`"),
        (moss_row(1, image="images/9.png"), r"images/9\.png: no such picture"),
        (None, r"sample 1: None as `question`"),
    ],
)
def test_bad_mossbench(tmp_path, row, message):
    put_moss(tmp_path, {"0": moss_row(0), "1": row})
    fails(mossbench.BENCHMARK, tmp_path, message)
