"""Image files to squares of CLIP's mean colour."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import transformers
from PIL import Image

from tga_jax.data import images
from tga_jax.errors import UserError
from tga_jax.models import llava

M = (122, 116, 104)
R, G, B = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def picture(rows) -> Image.Image:
    return Image.fromarray(np.array(rows, np.uint8))


def squared(rows) -> list:
    return np.asarray(images.pad_to_square(picture(rows))).tolist()


def rows(*values) -> list:
    return [[list(pixel) for pixel in row] for row in values]


def test_pad_to_square_literal():
    assert squared([[R, G, B]]) == rows([M, M, M], [R, G, B], [M, M, M])
    assert squared([[R], [G]]) == rows([R, M], [G, M])  # one column over: it comes last
    assert squared([[R, G, B, R]]) == rows([M] * 4, [R, G, B, R], [M] * 4, [M] * 4)
    assert squared([[R, G], [B, R]]) == rows([R, G], [B, R])


def test_load_resizes_and_converts(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGBA", (6, 3), (255, 0, 0, 255)).save(path)
    found = images.load(path, 4)
    assert found.shape == (4, 4, 3)
    assert found.dtype == np.uint8
    picture([[R, G], [B, R]]).save(path)
    assert images.load(path, 2).tolist() == rows([R, G], [B, R])
    Image.new("L", (2, 2), 7).save(path)
    assert np.all(images.load(path, 2) == 7)


def test_a_bad_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.png: cannot be read as an image"):
        images.load(tmp_path / "none.png", 4)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=r"text\.png: cannot be read as an image"):
        images.load(tmp_path / "text.png", 4)
    whole = tmp_path / "cut.png"
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    whole.write_bytes(whole.read_bytes()[:1500])
    with pytest.raises(UserError, match=r"cut\.png: cannot be read as an image"):
        images.load(whole, 4)


def theirs(size: int, **fields) -> transformers.CLIPImageProcessorPil:
    return transformers.CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, **fields
    )


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.sampled_from([14, 33, 64]),
    kind=st.sampled_from(["RGB", "L", "RGBA", "P", "CMYK"]),
    mode=st.sampled_from(images.MODES),
    seed=st.integers(0, 9),
)
def test_pixels_are_transformers_own_bit_by_bit(width, height, size, kind, mode, seed):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(noise).convert(kind)
    rgb = np.asarray(image.convert("RGB"))
    if mode == "pad":
        side = max(width, height)
        top, left = (side - height) // 2, (side - width) // 2
        around = ((top, side - height - top), (left, side - width - left))
        rgb = np.stack([np.pad(rgb[..., c], around, constant_values=M[c]) for c in range(3)], axis=-1)
    expected = theirs(size, do_rescale=False, do_normalize=False)(Image.fromarray(rgb), return_tensors="np")
    np.testing.assert_array_equal(images.preprocess(image, size, mode), expected["pixel_values"][0].transpose(1, 2, 0))


def test_normalised_as_transformers_does():
    image = picture(np.random.default_rng(0).integers(0, 256, (40, 30, 3)))
    found = llava.normalize_pixels(images.preprocess(image, 24, "crop"))
    expected = theirs(24)(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-7)
