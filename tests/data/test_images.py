"""Image files to squares of CLIP's mean colour."""

import numpy as np
import pytest
from PIL import Image

from tga_jax.data import images
from tga_jax.errors import UserError

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
