"""Pictures in folders, a scene each."""

import pytest
from safety_support import DESCRIBE, captions, fails, found, put, put_lines, shows

from tga_jax.errors import UserError
from tga_jax.evals.benchmarks import (
    scenes,
)


def test_scenes(tmp_path):
    names = ["gun/b.JPG", "gun/a.png", "blood/x.webp", "benign/1.png", "benign/park/1.png", "benign-street/1.gif"]
    for name in names:
        put(tmp_path, name)
    put(tmp_path, "gun/notes.txt", "of no concern")
    put(tmp_path, "gun/._a.png", "macOS puts these beside pictures")
    put(tmp_path, ".git/x", "")
    samples = found(scenes.BENCHMARK, tmp_path)
    assert list(samples) == [
        "benign/1.png",
        "benign/park/1.png",
        "benign-street/1.gif",
        "blood/x.webp",
        "gun/a.png",
        "gun/b.JPG",
    ]
    assert {name: s.harmful for name, s in samples.items()} == {n: not n.startswith("benign") for n in names}
    assert samples["benign/park/1.png"].groups == {"scene": "benign/park"}
    assert samples["benign/1.png"].groups == {"scene": "benign"}
    gun = samples["gun/a.png"]
    assert (gun.question, gun.text, gun.groups) == (DESCRIBE, None, {"scene": "gun"})
    assert shows(gun, "gun/a.png")
    assert not shows(gun, "blood/x.webp")


def test_captions_stand_in_the_pictures_place(tmp_path):
    for name in ("gun/a.png", "gun/b.png"):
        put(tmp_path, name)
    captions(tmp_path, **{"./gun/a.png": "a gun", "gun/b.png": "two guns", "gun/c.png": "of no picture"})
    assert [s.text for s in found(scenes.BENCHMARK, tmp_path).values()] == [
        "a gun\nDescribe this image.",
        "two guns\nDescribe this image.",
    ]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"image": "gun/b.png", "image_caption": "a"}],
            r"captions\.jsonl: lacks gun/a\.png, expected",
        ),
        ([{"image": "gun/a.png"}], r"captions\.jsonl: line 1: None as `image_caption`, expected text"),
        ([{"image": "gun/a.png", "image_caption": " "}], r"line 1: ' ' as `image_caption`"),
        ([{"image": "gun/a.png", "image_caption": "<image>"}], r"`image_caption`, expected text without <image>"),
        ([{"image_caption": "a"}], r"line 1: None as `image`"),
        (["gun/a.png"], r"line 1: None as `image`"),
        ([{"image": "gun/a.png", "image_caption": "a"}] * 2, r"line 2: a second caption of gun/a\.png"),
    ],
)
def test_bad_captions(tmp_path, rows, message):
    put(tmp_path, "gun/a.png")
    put_lines(tmp_path, "captions.jsonl", rows)
    fails(scenes.BENCHMARK, tmp_path, message)


def test_a_scene_without_pictures_is_an_error(tmp_path):
    put(tmp_path, "gun/a.png")
    put(tmp_path, "knife/a.heic", "in no format that is read")
    fails(scenes.BENCHMARK, tmp_path, r"knife: holds no picture, expected .*\.png")


def test_a_file_that_is_no_picture_is_told_when_it_is_loaded(tmp_path):
    put(tmp_path, "gun/a.png", "text")
    (sample,) = scenes.BENCHMARK.samples(tmp_path)
    with pytest.raises(UserError, match=r"gun/a\.png: cannot be read as an image"):
        sample.images[0]()
