"""Image files to squares of CLIP's mean colour."""

import contextlib
import io
import os
import struct
import time
import tracemalloc
import zlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import transformers
from PIL import ExifTags, Image

from tga_jax.data import images
from tga_jax.errors import UserError
from tga_jax.models import clip

# Pillow's warnings, which the module silences: pytest sets filters of its own.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "RuntimeWarning")]

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


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    return picture(np.random.default_rng(seed).integers(0, 256, (height, width, 3)))


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "in no known format"),
        (b"no picture", "in no known format"),
        (EPS, "in no known format"),  # Pillow would have Ghostscript run it
        (encoded(noise(40, 40), "jpeg")[:1000], "image file is truncated"),
        (encoded(noise(40, 40), "png")[:1500], "image file is truncated"),
        (encoded(noise(40, 40), "gif")[:1000], "image file is truncated"),
        (encoded(noise(40, 40), "webp")[:600], "could not create decoder object"),
        (png_header(20_000, 5_001), "20000 x 5001 pixels, expected at most 100,000,000"),
        (png_header(60_000, 60_000), "more than 178,956,970 pixels, expected at most 100,000,000"),
        (encoded(Image.fromarray(np.full((2, 2), np.nan, np.float32)), "tiff"), "pixels that are no finite numbers"),
    ],
)
def test_a_bad_picture_is_named(data, said):
    with pytest.raises(UserError) as raised:
        images.decode(data, "shop.zip: a.jpg")
    assert str(raised.value).startswith(f"shop.zip: a.jpg: cannot be read as an image ({said}")


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.sampled_from(["jpeg", "png", "gif", "webp", "tiff", "bmp"]), st.data())
def test_damage_is_a_user_error_or_nothing(kind, data):
    content = bytearray(encoded(noise(9, 9), kind))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UserError):
        assert images.decode(bytes(content), "a").mode == "RGB"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError) as raised:
        images.load(tmp_path / "none.png", 4)
    assert str(raised.value) == f"{tmp_path / 'none.png'}: cannot be read as an image (No such file or directory)"


def oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(noise(5, 7), "jpeg", exif=exif)


def frames() -> bytes:
    return encoded(noise(5, 7), "gif", save_all=True, append_images=[noise(5, 7, 1), noise(5, 7, 2)])


def transparent() -> Image.Image:
    image = noise(5, 7).convert("RGBA")
    image.putalpha(noise(5, 7, 1).convert("L"))
    return image


SAME_AS_TRANSFORMERS = {
    "grey": encoded(noise(5, 7).convert("L"), "png"),
    "1-bit": encoded(noise(5, 7).convert("1"), "png"),
    "grey and alpha": encoded(transparent().convert("LA"), "png"),
    "alpha": encoded(transparent(), "png"),
    "palette": encoded(noise(5, 7).convert("P"), "png"),
    "palette and a transparent colour": encoded(noise(5, 7).convert("P"), "png", transparency=3),
    "palette and alpha": encoded(noise(5, 7).convert("P"), "png", transparency=bytes(range(256))),
    "cmyk": encoded(noise(5, 7).convert("CMYK"), "jpeg"),
    "lab": encoded(noise(5, 7).convert("LAB"), "tiff"),
    "animated gif": frames(),
    "animated webp": encoded(noise(5, 7), "webp", save_all=True, append_images=[noise(5, 7, 1)]),
    **{f"exif {i}": oriented(i) for i in range(1, 9)},
}


@pytest.mark.parametrize("kind", SAME_AS_TRANSFORMERS)
def test_every_kind_of_file_is_read_as_transformers_reads_it(tmp_path, kind):
    data = SAME_AS_TRANSFORMERS[kind]
    (tmp_path / "a").write_bytes(data)
    expected = transformers.image_utils.load_image(str(tmp_path / "a"))
    assert np.array_equal(images.decode(data, "a"), expected)


def grey_of(array, kind: str = "tiff") -> list:
    found = np.asarray(images.decode(encoded(Image.fromarray(array), kind), "a"))
    assert (found == found[..., :1]).all()
    return found[0, :, 0].tolist()


def test_deep_greys_are_scaled_and_not_cut_off():
    values = np.array([[0, 255, 256, 32768, 65535]])
    assert grey_of(values.astype(np.uint16), "png") == [0, 0, 1, 128, 255]
    assert grey_of(values.astype(np.uint16)) == [0, 0, 1, 128, 255]
    big_endian = Image.frombytes("I;16B", (5, 1), values.astype(">u2").tobytes())
    assert np.asarray(images.to_rgb(big_endian))[0, :, 0].tolist() == [0, 0, 1, 128, 255]
    assert grey_of(values.astype(np.int32)) == [0, 0, 1, 128, 255]
    assert grey_of(np.array([[-100, 0, 300]], np.int32)) == [0, 64, 255]
    assert grey_of(np.array([[0, 0.25, 1]], np.float32)) == [0, 64, 255]
    assert grey_of(np.array([[-1, 0, 3]], np.float32)) == [0, 64, 255]
    assert grey_of(np.full((1, 3), 7, np.float32)) == [0, 0, 0]


def theirs(edge: int, **fields) -> transformers.CLIPImageProcessorPil:
    sizes = {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}}
    return transformers.CLIPImageProcessorPil(**sizes | fields)


@pytest.mark.parametrize("mode", images.MODES)
@pytest.mark.parametrize("number", range(50))
def test_pixels_are_transformers_own_bit_by_bit(number, mode):
    random = np.random.default_rng(number)
    width, height = (2 * random.integers(0, 200, 2) + 1).tolist()
    size = (14, 33, 64, 336)[number % 4]
    image = noise(height, width, number).convert(("RGB", "L", "RGBA", "P", "CMYK")[number % 5])
    rgb = np.asarray(image.convert("RGB"))
    if mode == "pad":
        side = max(width, height)
        top, left = (side - height) // 2, (side - width) // 2
        around = ((top, side - height - top), (left, side - width - left))
        rgb = np.stack([np.pad(rgb[..., c], around, constant_values=M[c]) for c in range(3)], axis=-1)
    sizes = {"size": {"height": size, "width": size}} if mode == "stretch" else {}
    expected = theirs(size, do_rescale=False, do_normalize=False, **sizes)(Image.fromarray(rgb), return_tensors="np")
    np.testing.assert_array_equal(images.preprocess(image, size, mode), expected["pixel_values"][0].transpose(1, 2, 0))


@hypothesis.settings(max_examples=100)
@hypothesis.given(
    width=st.integers(1, 150),
    height=st.integers(1, 150),
    size=st.sampled_from([14, 33, 64, 224]),
    mode=st.sampled_from(images.MODES),
    seed=st.integers(0, 99),
)
def test_the_fast_path_differs_by_two_at_most(width, height, size, mode, seed):
    image = noise(height, width, seed)
    exact, fast = (images.preprocess(image, size, mode, fast=f).astype(int) for f in (False, True))
    assert np.abs(exact - fast).max() <= 2
    assert np.mean(exact != fast) < 0.01


@hypothesis.settings(max_examples=150)
@hypothesis.given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    times=st.integers(1, 40),
    tall=st.booleans(),
    size=st.sampled_from([7, 14, 33]),
    mode=st.sampled_from(images.MODES),
    resample=st.sampled_from(sorted(images.RESAMPLING)),
    seed=st.integers(0, 99),
)
def test_a_window_has_the_pixels_of_the_whole(width, height, times, tall, size, mode, resample, seed):
    """The pictures that are resized as a whole, and in windows, are the same bit by bit, whatever their shape."""
    width, height = (width, height * times) if tall else (width * times, height)
    image = noise(height, width, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "LONG", 10**9)
        whole = images.preprocess(image, size, mode, resample=resample)
        patch.setattr(images, "LONG", 0)
        patch.setattr(images, "MAX_SQUARE", 0)
        np.testing.assert_array_equal(images.preprocess(image, size, mode, resample=resample), whole)


@pytest.mark.parametrize("mode", images.MODES)
@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (40_000, 3), (3, 40_000)])
def test_long_pictures_take_little_time_and_memory(size, mode):
    """A whole 1 x 3000 picture resized to 336 pixels has a gigabyte; the square of 40,000 pixels has five."""
    image = Image.new("RGB", size, (9, 8, 7))
    tracemalloc.start()
    started = time.monotonic()
    found = images.preprocess(image, 336, mode)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - started < 10
    assert peak < 2**28
    assert found.shape == (336, 336, 3)
    expected = M if mode == "pad" else (9, 8, 7)
    assert (found[0, 0] == expected).all()


@pytest.mark.parametrize("mode", images.MODES)
def test_a_side_that_is_too_long_is_named_before_anything_is_decoded(mode):
    """Pillow's table of weights for a row of 50 million pixels has 1.6 GB, its padded square 10,000 TB."""
    data = png_header(50_000_000, 1)  # without its pixels
    said = r"a\.png: cannot be read as an image \(50000000 x 1 pixels, expected sides of at most 131,072\)$"
    for read in (images.size, lambda data, name: images.read(data, name, 28, mode)):
        with pytest.raises(UserError, match=said):
            read(data, "a.png")
    with pytest.raises(UserError, match=r"^140000 x 2 pixels, expected sides of at most 131,072$"):
        images.preprocess(Image.new("L", (140_000, 2)), 28, mode)


def test_a_format_that_takes_more_memory_has_fewer_pixels():
    """1,168 bytes of JPEG 2000 would take 1.8 GB and 12 seconds."""
    data = encoded(Image.new("L", (6000, 5000)), "jpeg2000")
    with pytest.raises(UserError, match="6000 x 5000 pixels, expected at most 25,000,000"):
        images.decode(data, "a.jp2")


def test_what_never_ends_or_is_too_large_is_no_picture(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "long.png").write_bytes(bytes(101))
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    for name, said in (
        ("pipe.png", "no regular file"),
        ("long.png", "101 bytes, expected at most 100"),
        ("a\0.png", "null"),
    ):
        with pytest.raises(UserError, match=said):
            images.open_file(tmp_path / name)


def photograph(width: int, height: int) -> Image.Image:
    """Random, with a photograph's amplitudes: inversely as the frequency."""
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height, 1 / height)[:, None], np.fft.rfftfreq(width, 1 / width))
    waves = np.exp(2j * np.pi * random.random((3, *frequency.shape))) / np.maximum(frequency, 1)
    channels = np.fft.irfft2(waves, (height, width))
    return picture(np.clip(128 + 55 * channels / channels.std(), 0, 255).transpose(1, 2, 0))


@pytest.mark.parametrize("mode", images.MODES)
def test_the_fast_path_on_a_large_jpeg(mode):
    data = encoded(photograph(1200, 1000), "jpeg", quality=90)
    assert images.decode(data, "a", (224, mode)).size == (600, 500)
    exact, fast = (images.read(data, "a", 224, mode, fast=f).astype(int) for f in (False, True))
    assert np.abs(exact - fast).max() <= 16
    assert np.abs(exact - fast).mean() <= 2


@pytest.mark.parametrize(("width", "height", "mode"), [(1201, 1000, "pad"), (890, 800, "pad"), (1200, 800, "crop")])
def test_a_jpeg_is_not_made_smaller_where_that_would_show(width, height, mode):
    data = encoded(Image.new("RGB", (width, height)), "jpeg")
    assert images.decode(data, "a", (224, mode)).size == (width, height)


def test_normalised_as_transformers_does():
    image = picture(np.random.default_rng(0).integers(0, 256, (40, 30, 3)))
    found = clip.normalized(clip.VisionConfig(8, 1, 2, 16), images.preprocess(image, 24, "crop"))
    expected = theirs(24)(image, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-7)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [None, 1, 2, 3, 4, 5, 6, 7, 8])
def test_the_size_in_the_header_is_that_of_the_decoded_picture(kind, orientation):
    exif, file = Image.Exif(), io.BytesIO()
    if orientation is not None:
        exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (5, 9)).save(file, kind, exif=exif)
    decoded = images.decode(file.getvalue(), "p")
    assert images.size(file.getvalue(), "p") == (decoded.height, decoded.width)
    if orientation is not None:
        assert (decoded.height > decoded.width) == (orientation < 5)


def test_the_size_of_what_is_no_picture():
    for data, said in (
        (b"", "in no known format"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 40, "p: cannot be read as an image"),
    ):
        with pytest.raises(UserError, match=said):
            images.size(data, "p")
