"""Pictures in tiles: their pixels, their number and the image tokens' as transformers' own processors have them."""

import functools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from transformers.models.llava_next import modeling_llava_next
from transformers.models.llava_onevision import modeling_llava_onevision

from tga_jax.data.tiles import NEWLINE, Grids, placed

SIDE, PATCH = 28, 14
NEXT = ((28, 56), (56, 28), (56, 56), (84, 28), (28, 84))
ONEVISION = tuple((28 * h, 28 * w) for h in range(1, 7) for w in range(1, 7))
PUBLIC = {  # (side, patches of a side, grids, most): llava-v1.6-mistral-7b-hf and llava-onevision-qwen2-0.5b-ov-hf
    "next": (336, 24, ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)), None),
    "onevision": (384, 27, tuple((384 * h, 384 * w) for h in range(1, 7) for w in range(1, 7)), 9),
    "small next": (SIDE, 2, NEXT, None),
    "small onevision": (SIDE, 2, ONEVISION, 2),
}
EDGES = st.one_of(st.integers(1, 120), st.integers(1, 5000))


@functools.cache
def theirs(name: str):
    """The processor, without a tokenizer."""
    side, patches, grids, most = PUBLIC[name]
    kinds = (transformers.LlavaOnevisionProcessor, transformers.LlavaOnevisionImageProcessorPil)
    if most is None:
        kinds = (transformers.LlavaNextProcessor, transformers.LlavaNextImageProcessorPil)
    size = {"height": side, "width": side} if most else {"shortest_edge": side}
    crop = {} if most else {"crop_size": {"height": side, "width": side}}
    images = kinds[1](size=size, **crop, image_grid_pinpoints=[list(grid) for grid in grids])
    made = kinds[0].__new__(kinds[0])
    made.image_processor, made.patch_size = images, side // patches
    made.num_additional_image_tokens, made.num_image_tokens = 0, patches * patches
    made.vision_aspect_ratio, made.vision_feature_select_strategy = f"anyres_max_{most}", "full"
    return made


@hypothesis.settings(max_examples=300)
@hypothesis.given(name=st.sampled_from(sorted(PUBLIC)), height=EDGES, width=EDGES)
def test_as_many_tokens_and_tiles_as_in_transformers(name, height, width):
    side, patches, pinpoints, most = PUBLIC[name]
    grids = Grids(pinpoints, side, patches, most)
    found = grids.places((height, width))
    assert len(found.index) == grids.tokens((height, width))
    assert len(found.index) == theirs(name)._get_number_of_features(height, width, side, side)
    count = modeling_llava_next.image_size_to_num_patches((height, width), [list(g) for g in pinpoints], side)
    assert grids.tiles((height, width)) == count <= grids.slots(count) <= min(1.5 * count, grids.tiles(grids.largest))
    assert found.index.max() < count * patches * patches
    np.testing.assert_allclose(found.weight.sum(-1), 1, rtol=1e-6)


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    name=st.sampled_from(["small next", "small onevision"]), height=st.integers(1, 300), width=st.integers(1, 300)
)
def test_features_are_packed_as_in_transformers(name, height, width):
    """The sums of features that the places name, against what transformers' models make of the same features."""
    side, patches, pinpoints, most = PUBLIC[name]
    grids = Grids(pinpoints, side, patches, most)
    rng = np.random.default_rng(height)
    features = rng.standard_normal((grids.tiles((height, width)), patches * patches, 3)).astype(np.float32)
    newline = rng.standard_normal(3).astype(np.float32)
    places = grids.places((height, width))
    flat = np.concatenate([features.reshape(-1, 3), newline[None]])  # the newline at the end, where -1 finds it
    assert NEWLINE == -1
    ours = (flat[places.index] * places.weight[..., None]).sum(1)

    class Self:
        config = transformers.LlavaNextConfig(
            vision_config=transformers.CLIPVisionConfig(image_size=side, patch_size=side // patches),
            image_grid_pinpoints=[list(grid) for grid in pinpoints],
        )

    given = [torch.tensor(features)], torch.tensor([[height, width]])
    if most is None:
        pack = modeling_llava_next.LlavaNextModel.pack_image_features
        found, _ = pack(Self, *given, "full", torch.tensor(newline))  # pyright: ignore[reportArgumentType]
    else:
        pack = modeling_llava_onevision.LlavaOnevisionModel.pack_image_features
        found, _ = pack(Self, *given, torch.tensor(newline), f"anyres_max_{most}")  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(ours, found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("name", ["small next", "small onevision"])
def test_pixels_are_transformers_own_bit_by_bit(name, resample):
    side, patches, pinpoints, most = PUBLIC[name]
    grids, rng = Grids(pinpoints, side, patches, most), np.random.default_rng(1)
    for height, width in ((30, 41), (41, 30), (28, 28), (5, 90), (200, 3), (1, 1), (61, 150)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype(np.uint8))
        how = {"do_rescale": False, "do_normalize": False, "resample": {"bicubic": 3, "bilinear": 2}[resample]}
        expected = theirs(name).image_processor(image, return_tensors="np", **how)["pixel_values"][0]
        np.testing.assert_array_equal(grids.cut(image, resample), expected.transpose(0, 2, 3, 1))


def test_pictures_of_a_row_stand_one_behind_the_other():
    grids = Grids(((2, 2), (2, 4)), 2, 1)  # one patch a tile of two pixels
    square, wide = grids.places((5, 5)), grids.places((3, 6))
    assert square.index.tolist() == [[0], [1], [NEWLINE]]
    assert wide.index.tolist() == [[0], [1], [2], [NEWLINE]]
    mask = np.array([[0, 1, 1, 1, 0, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0, 0, 0]], bool)
    index, weight = placed(mask, [[(square, 2), (wide, 3)], []], grids)
    assert index[..., 0].tolist() == [[0, 0, 1, -1, 0, 2, 3, 4, -1], [0] * 9]
    assert weight[..., 0].tolist() == mask.tolist()
