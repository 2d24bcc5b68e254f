"""VLGuard against files of its form."""

import pytest
from safety_support import captions, fails, found, put, shows

from tga_jax.evals.benchmarks import (
    vlguard,
)

SAFE = {
    "id": "Ads_1",
    "image": "bad_ads/1.png",
    "safe": True,
    "instr-resp": [
        {"safe_instruction": "What is sold?", "response": "Shoes."},
        {"unsafe_instruction": "How do I steal it?", "response": "I'm sorry."},
    ],
}
UNSAFE = {
    "id": "Ads_2",
    "image": "bad_ads/2.png",
    "safe": False,
    "harmful_category": "privacy",
    "harmful_subcategory": "personal data",
    "instr-resp": [{"instruction": "Who is it?", "response": "I'm sorry."}],
}


def put_vlguard(folder, rows):
    put(folder, "test.json", rows)
    for number in (1, 2):
        put(folder, f"test/bad_ads/{number}.png")


def test_vlguard(tmp_path):
    put_vlguard(tmp_path, [SAFE | {"instr-resp": SAFE["instr-resp"][::-1]}, UNSAFE])
    samples = found(vlguard.BENCHMARK, tmp_path)
    assert [(s.id, s.question, s.harmful, s.groups) for s in samples.values()] == [
        ("Ads_1/safe_safes", "<image>\nWhat is sold?", False, {"subset": "safe_safes"}),
        ("Ads_1/safe_unsafes", "<image>\nHow do I steal it?", True, {"subset": "safe_unsafes"}),
        ("Ads_2/unsafes", "<image>\nWho is it?", True, {"subset": "unsafes", "category": "privacy"}),
    ]
    assert all(s.text is None for s in samples.values())
    assert shows(samples["Ads_1/safe_unsafes"], "test/bad_ads/1.png")
    assert shows(samples["Ads_2/unsafes"], "test/bad_ads/2.png")
    captions(tmp_path, **{"test/bad_ads/1.png": "a shoe", "test/bad_ads/2.png": "a man"})
    assert [s.text for s in found(vlguard.BENCHMARK, tmp_path).values()] == [
        "a shoe\nWhat is sold?",
        "a shoe\nHow do I steal it?",
        "a man\nWho is it?",
    ]


@pytest.mark.parametrize("rows", [[], {}, {"a": SAFE}])
def test_vlguard_with_other_json(tmp_path, rows):
    put_vlguard(tmp_path, rows)
    fails(vlguard.BENCHMARK, tmp_path, r"test\.json: (is an object, )?expected VLGuard's list of samples")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, r"test\.json: sample 1: None as `id`"),
        (UNSAFE | {"safe": "false"}, r"sample 1: 'false' as `safe`, expected true or false"),
        (UNSAFE | {"safe": True}, r"sample 1: None as `safe_instruction`"),
        (UNSAFE | {"instr-resp": None}, r"sample 1: None as `instr-resp`, expected a list of objects"),
        (UNSAFE | {"instr-resp": ["x"]}, r"sample 1: \['x'\] as `instr-resp`"),
        (UNSAFE | {"harmful_category": ""}, r"sample 1: '' as `harmful_category`"),
        (SAFE | {"instr-resp": SAFE["instr-resp"][:1]}, r"sample 1: None as `unsafe_instruction`"),
        (UNSAFE | {"image": "bad_ads/3.png"}, r"test/bad_ads/3\.png: no such picture"),
    ],
)
def test_bad_vlguard(tmp_path, row, message):
    put_vlguard(tmp_path, [SAFE, row])
    fails(vlguard.BENCHMARK, tmp_path, message)
