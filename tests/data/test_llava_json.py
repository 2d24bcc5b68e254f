"""LLaVA's JSON: what a sample becomes, and the errors that name a bad one."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tga_jax.data import llava_json
from tga_jax.errors import UserError

PATH = Path("samples.json")


def turns(*values: str, first: str = "human") -> list[dict]:
    speakers = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return [{"from": speakers[i % 2], "value": value} for i, value in enumerate(values)]


GOOD = {
    "id": "s1",
    "image": "a.png",
    "conversations": turns("What is it?\n<image>", "A cat.", "Sure?", "Yes."),
    "image_caption": "a cat",
    "retrieved_caption": "a tiger",
}


def test_a_visual_sample():
    record, image = llava_json.parse(GOOD, 0, PATH, "visual")
    assert image == "a.png"
    assert record.id == "s1"
    assert record.turns == (("What is it?", "A cat."), ("Sure?", "Yes."))
    assert (record.caption, record.retrieved, record.retrieved_in_prompt) == ("a cat", "a tiger", True)
    assert record.template == "mistral_instruct"
    assert record.image is None


def test_a_caption_sample_has_no_retrieved_text():
    record, _ = llava_json.parse({**GOOD, "conversations": turns("<image>\nShow.", "A cat.")}, 0, PATH, "caption")
    assert record.turns == (("", "A cat."),)
    assert (record.template, record.caption, record.retrieved) == ("plain", "a cat", "")


def test_a_first_turn_of_the_model_is_dropped_and_an_id_made_up():
    sample = {"conversations": turns("Hello.", "Hi.", "Yes?", first="gpt")}
    record, image = llava_json.parse(sample, 7, PATH, "visual")
    assert record.id == "7"
    assert image == ""
    assert record.turns == (("Hi.", "Yes?"),)
    assert (record.caption, record.retrieved, record.retrieved_in_prompt) == ("", "", False)


@pytest.mark.parametrize(
    ("sample", "named"),
    [
        ([], "sample 3 is a list, expected an object"),
        ({"id": "x"}, "sample 'x' has no `conversations`"),
        ({"id": "x", "conversations": []}, "sample 'x' has no `conversations`"),
        ({"conversations": [{"from": "human"}]}, "sample '3' has a turn without text"),
        ({"id": "x", "conversations": turns("a")}, r"sample 'x' has speakers \['human'\]"),
        ({"id": "x", "conversations": turns("a", "b", "c")}, "sample 'x' has speakers"),
        ({"id": "x", "conversations": [{"from": "human", "value": "a"}] * 2}, "sample 'x' has speakers"),
        ({**GOOD, "conversations": turns("a", "b")}, "sample 's1' has 0 <image> and an image"),
        ({**GOOD, "conversations": turns("<image> <image>", "b")}, "sample 's1' has 2 <image> and an image"),
        ({"id": "x", "conversations": turns("<image>", "b")}, "sample 'x' has 1 <image> and no image"),
        ({**GOOD, "image": 5}, "sample 's1' has an `image` that is no text"),
        ({**GOOD, "image_caption": ["a cat"]}, "sample 's1' has an `image_caption` that is no text"),
        ({**GOOD, "retrieved_caption": 3}, "sample 's1' has a `retrieved_caption` that is no text"),
    ],
)
def test_a_bad_sample_is_named(sample, named):
    with pytest.raises(UserError, match=f"samples.json: {named}"):
        llava_json.parse(sample, 3, PATH, "visual")


def test_a_source_reads_pictures_when_asked(tmp_path):
    path = tmp_path / "samples.json"
    path.write_text(json.dumps([GOOD, {"id": "t", "conversations": turns("a", "b")}, {**GOOD, "image": "gone.png"}]))
    Image.new("RGB", (6, 4), (9, 9, 9)).save(tmp_path / "a.png")
    source = llava_json.Source(path, tmp_path, "visual", 8)
    assert len(source) == 3
    assert source[0].image.shape == (8, 8, 3)
    assert source[0].image.dtype == np.uint8
    assert source[1].image is None
    with pytest.raises(UserError, match=r"gone\.png: cannot be read as an image"):
        source[2]


@pytest.mark.parametrize(
    ("text", "named"), [("{", "not JSON"), ("[]", "expected a list of samples"), ("{}", "expected a list of samples")]
)
def test_a_bad_file_is_named(tmp_path, text, named):
    path = tmp_path / "samples.json"
    path.write_text(text)
    with pytest.raises(UserError, match=f"samples.json: {named}"):
        llava_json.Source(path, tmp_path, "visual", 8)


def test_a_missing_file_and_an_unfit_task_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: cannot be read"):
        llava_json.Source(tmp_path / "none.json", tmp_path, "visual", 8)
    path = tmp_path / "samples.json"
    path.write_text(json.dumps([GOOD]))
    with pytest.raises(UserError, match=r"data\.task: 'text'"):
        llava_json.Source(path, tmp_path, "text", 8)
