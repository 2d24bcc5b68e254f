"""One door for files and for folders that `tga build-data` wrote, in every command that reads samples."""

import json
from pathlib import Path

import numpy as np
import pytest
import rich.console
from PIL import Image

from tga_jax.data import llava_tfds, validate
from tga_jax.data.llava_source import LlavaRecords, LlavaSource
from tga_jax.data.llava_tfds import ArrayRecords
from tga_jax.data.open_samples import open_pictures, open_samples
from tga_jax.data.rewrite import rewrite
from tga_jax.data.samples import SampleFile
from tga_jax.data.sources import Pictures
from tga_jax.errors import UserError

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cup."}]


@pytest.fixture(name="folder")
def fixture_folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    samples = []
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(tmp_path / "pictures" / f"{i}.png")
        samples.append({"id": f"s{i}", "image": f"{i}.png", "conversations": TURNS, "image_caption": f"cup {i}"})
    (tmp_path / "list.json").write_text(json.dumps(samples))
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    llava_tfds.build(tmp_path / "list.json", tmp_path / "pictures", tmp_path / "built", shards=2)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"), [("list.json", SampleFile), ("lines.jsonl", SampleFile), ("built", ArrayRecords)]
)
def test_all_forms_give_the_same_samples_and_pictures(folder, name, kind):
    samples = open_samples(folder / name)
    assert isinstance(samples, kind)
    store = open_pictures(None if name == "built" else folder / "pictures", samples)
    assert store is not None
    for i in range(3):
        assert samples[i]["image_caption"] == f"cup {i}"
        assert store.read(samples[i]["image"]) == (folder / "pictures" / f"{i}.png").read_bytes()
    report = validate.validate(folder / name, validate.Checks(None if name == "built" else folder / "pictures", True))
    assert report["fit_for_training"]
    assert (report["counts"]["guided"], report["problems"]["corrupt_images"]["count"]) == (3, 0)


def test_a_file_has_no_pictures_of_its_own(folder):
    assert open_pictures(None, open_samples(folder / "list.json")) is None
    with pytest.raises(UserError, match="--decode: needs --images"):
        validate.validate(folder / "list.json", validate.Checks(decode=True))


def copy(samples, target) -> None:
    console = rich.console.Console(quiet=True)
    rewrite(samples, target, "image_caption", {}, {}, lambda numbers: [samples[i] for i in numbers], 2, console)


def test_what_is_rewritten_of_a_built_folder_finds_its_pictures_there(folder):
    """As `tga caption` and `tga retrieve` do: the lines name the folder's pictures, so it is their `images`."""
    samples = open_samples(folder / "built")
    copy(samples, folder / "new.jsonl")
    source = LlavaSource(str(folder / "new.jsonl"), str(folder / "built"))
    made, built = (LlavaRecords(s, Pictures(8)) for s in (source, LlavaSource(str(folder / "built"))))
    for i in range(3):
        np.testing.assert_array_equal(made[i].images[0](), built[i].images[0]())


def test_a_folder_that_is_no_build_is_named(folder):
    with pytest.raises(UserError, match="pictures: no finished build"):
        open_samples(folder / "pictures")


def test_images_beside_a_built_folder_are_refused(folder):
    with pytest.raises(UserError, match=r"pictures: images beside .*built, which holds its own, expected none"):
        open_pictures(folder / "pictures", open_samples(folder / "built"))
    with pytest.raises(UserError, match="which holds its own"):
        LlavaRecords(LlavaSource(str(folder / "built"), str(folder / "pictures")), Pictures(8))


def test_what_was_rewritten_of_a_built_folder_can_be_built_again(folder):
    samples = open_samples(folder / "built")
    copy(samples, folder / "new.jsonl")
    llava_tfds.build(folder / "new.jsonl", folder / "built", folder / "again")
    again = open_samples(folder / "again")
    store = open_pictures(None, again)
    assert store is not None
    assert [store.read(again[i]["image"]) for i in range(3)] == [
        (folder / "pictures" / f"{i}.png").read_bytes() for i in range(3)
    ]
