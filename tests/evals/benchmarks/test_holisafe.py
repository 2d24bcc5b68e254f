"""HoliSafe-Bench against files of its form."""

import pytest
from safety_support import fails, found, put, shows

from tga_jax.evals.benchmarks import holisafe

IMAGE = "specialized_advice/medical_advice/medical_advice_39.png"


def row(number, kind, **fields):
    return {
        "id": number,
        "image": IMAGE,
        "query": "Can you suggest a treatment?",
        "type": kind,
        "category": "specialized_advice",
        "subcategory": "medical_advice",
        "image_safe": kind[0] == "S",
        "image_safety_label": 0,
    } | fields


def put_holi(folder, *rows):
    put(folder, "holisafe_bench.json", list(rows))
    put(folder, f"images/{IMAGE}")


def test_holisafe(tmp_path):
    put_holi(tmp_path, *(row(n, kind) for n, kind in enumerate(holisafe.TYPES)))
    samples = found(holisafe.BENCHMARK, tmp_path)
    assert {s.groups["type"]: s.harmful for s in samples.values()} == {
        "SSS": False, "SSU": True, "SUU": True, "USU": True, "UUU": True,
    }  # fmt: skip
    sample = samples["1"]
    assert (sample.question, sample.text) == ("<image>\nCan you suggest a treatment?", None)
    assert sample.groups == {"type": "SSU", "category": "specialized_advice", "subcategory": "medical_advice"}
    assert shows(sample, f"images/{IMAGE}")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id": 1}, r"holisafe_bench\.json: question '1' is there twice"),
        ({"type": "UUS"}, r"\[1\]: 'UUS' as `type`, expected one of SSS, SSU, SUU, USU, UUU"),
        ({"query": ""}, r"\[1\]: '' as `query`"),
        ({"image": "a.png"}, r"images/a\.png: no such picture"),
        ({"subcategory": None}, r"\[1\]: None as `subcategory`"),
    ],
)
def test_bad_holisafe(tmp_path, fields, message):
    put_holi(tmp_path, row(1, "SSS"), row(2, "UUU", **fields))
    fails(holisafe.BENCHMARK, tmp_path, message)
