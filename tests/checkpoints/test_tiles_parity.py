"""LLaVA-NeXT and LLaVA-OneVision: hub folders with their processors, against transformers and torch in float32."""

import json

import jax
import numpy as np
import pytest
import torch
import transformers
from hub_support import IMAGE_ID, edit_config
from tiles_support import PROMPT, SIZES, make, pictures

import tga_jax
from tga_jax.checkpoints import hub


@pytest.fixture(autouse=True)
def full_precision():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module", name="pair", params=["next", "onevision"])
def fixture_pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return *make(request.param, folder), folder, tga_jax.load(folder, "float32")


def test_logits_and_states(pair):
    """Of pictures of several shapes in one padded batch, and one prompt without a picture."""
    theirs, processor, _, ours = pair
    inputs = processor(
        text=[PROMPT] * len(SIZES), images=[[p] for p in pictures()], return_tensors="pt", padding=True,
        padding_side="right",
    )  # fmt: skip
    given = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values", "image_sizes")}
    with torch.no_grad():
        found = theirs(**given, output_hidden_states=True)
    made = ours.forward(*(x.numpy() for x in given.values()))
    valid = given["attention_mask"].numpy().astype(bool)
    expected = found.logits.numpy()[valid]
    assert np.abs(np.asarray(made.logits)[valid] - expected).max() < 2e-5 * np.abs(expected).max()
    embedded = found.hidden_states[0].numpy()[valid]
    assert np.abs(np.asarray(made.hidden_states[0])[valid] - embedded).max() < 2e-5 * np.abs(embedded).max()
    with pytest.raises(tga_jax.UserError, match=r"^\d+ image tokens and 5 pictures, expected \d+ for sizes"):
        ours.forward(given["input_ids"], given["attention_mask"], given["pixel_values"], [(28, 28)] * 5)
    with pytest.raises(tga_jax.UserError, match="expected the pictures' sizes for a model with tiles"):
        ours.forward(given["input_ids"], given["attention_mask"], given["pixel_values"])


def test_greedy_answers(pair, tmp_path):
    """Through the door that chat and evaluation use, from pictures; of a checkpoint of ours as well."""
    theirs, processor, folder, ours = pair
    expected = []
    for picture in pictures():
        inputs = processor(text=PROMPT, images=[picture], return_tensors="pt")
        batch = ours.processor.batch([PROMPT], [[picture]])
        count = inputs["input_ids"].shape[1]
        assert batch.image_mask.sum() == (inputs["input_ids"] == IMAGE_ID).sum()
        assert batch.valid.sum() == count
        with torch.no_grad():
            out = theirs.generate(**inputs, max_new_tokens=6, do_sample=False, num_beams=1)[0, count:]
        expected.append(ours.answer_text(out.numpy()))
    assert len(set(expected)) > 2
    shown = [[picture] for picture in pictures()]
    assert ours.generate([PROMPT] * len(SIZES), shown, new_tokens=6) == expected
    assert ours.generate([PROMPT] * len(SIZES), shown, new_tokens=6, batch_size=2, multiple=64) == expected
    kept = [[ours.processor.kept(picture)] for picture in pictures()]
    assert ours.generate(["w3", *[PROMPT] * len(SIZES)], [[], *kept], new_tokens=6)[1:] == expected
    hub.import_hub(folder, tmp_path / "ours", "float32")
    again = tga_jax.load(tmp_path / "ours", "float32")
    assert again.config == ours.config
    assert "".join(again.stream(PROMPT, [pictures()[0]], new_tokens=6)) == expected[0]


def test_several_pictures_in_a_prompt(pair):
    theirs, processor, _, ours = pair
    prompt, shown = "w5 <image> w6 <image>", pictures()[:2]
    if isinstance(theirs, transformers.LlavaOnevisionForConditionalGeneration):
        with pytest.raises(tga_jax.UserError, match=r"^prompt 1: 2 pictures, expected one for this checkpoint$"):
            ours.generate(["w5", prompt], [[], shown], new_tokens=2)
        return
    inputs = processor(text=prompt, images=shown, return_tensors="pt")
    with torch.no_grad():
        out = theirs.generate(**inputs, max_new_tokens=4, do_sample=False, num_beams=1)
    assert ours.generate([prompt], [shown], new_tokens=4) == [
        ours.answer_text(out[0, inputs["input_ids"].shape[1] :].numpy())
    ]


def test_a_picture_as_a_whole_is_refused(pair):
    ours = pair[3]
    with pytest.raises(tga_jax.UserError, match="this checkpoint cuts pictures into tiles"):
        ours.processor.pixels(pictures())


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        (
            "next",
            {"image_grid_pinpoints": [[28, 57]]},
            r"image_grid_pinpoints is \[\[28, 57\]\], expected pairs of",
        ),
        ("next", {"image_grid_pinpoints": []}, "image_grid_pinpoints is"),
        ("next", {"image_grid_pinpoints": [[28]]}, "image_grid_pinpoints is"),
        ("next", {"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy is 'full'"),
        ("next", {"use_image_newline_parameter": False}, "use_image_newline_parameter is False"),
        (
            "onevision",
            {"vision_aspect_ratio": "anyres"},
            "vision_aspect_ratio is 'anyres', expected such as",
        ),
        ("onevision", {"vision_feature_select_strategy": "default"}, "vision_feature_select_strategy is 'default'"),
    ],
)
def test_what_is_not_computed_is_refused(tmp_path, name, fields, said):
    make(name, tmp_path)
    edit_config(tmp_path, **fields)
    with pytest.raises(tga_jax.UserError, match=said):
        hub.open_hub(tmp_path)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image_grid_pinpoints": [[28, 28]]}, "image_grid_pinpoints is"),
        ({"aspect_ratio_setting": "pad"}, "aspect_ratio_setting is 'pad'"),
        ({"image_processor_type": "CLIPImageProcessor"}, "image_processor_type is 'CLIPImageProcessor'"),
    ],
)
def test_a_processor_that_says_otherwise_is_refused(tmp_path, fields, said):
    make("next", tmp_path)
    path = tmp_path / "processor_config.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "image_processor": raw["image_processor"] | fields}))
    with pytest.raises(tga_jax.UserError, match=said):
        hub.open_hub(tmp_path)
