"""Data in a bucket: samples, pictures and shards read as from a folder here."""

import dataclasses
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import bucket_support
import numpy as np
import pytest
import rich.console
from etils import epath
from PIL import Image

from tga_jax.cli import run
from tga_jax.data import bucket, llava_tfds
from tga_jax.data.llava_source import LlavaSource
from tga_jax.data.media import open_store
from tga_jax.data.open_samples import open_pictures, open_samples
from tga_jax.data.sources import DataConfig, Pictures
from tga_jax.errors import UserError
from tga_jax.train import fetch
from tga_jax.train.config import TrainConfig
from tga_jax.train.optim import OptimConfig
from tga_jax.train.step import LossConfig
from tga_jax.workdir import located

ROWS = 7


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    """samples.json, samples.jsonl, images/, images.zip, images.tar and built/, of three shards."""
    folder = tmp_path_factory.mktemp("data")
    rng, samples = np.random.default_rng(0), []
    (folder / "images" / "a b").mkdir(parents=True)
    for i in range(ROWS):
        name = f"a b/é{i}.png"
        Image.fromarray(rng.integers(0, 256, (5 + i, 9, 3), dtype=np.uint8)).save(folder / "images" / name)
        turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": f"thing {i}"}]
        samples.append({"id": f"s{i}", "image": name, "conversations": turns, "image_caption": f"é {i}"})
    (folder / "samples.json").write_text(json.dumps(samples, ensure_ascii=False, indent=1))
    (folder / "samples.jsonl").write_text("".join(json.dumps(s) + "\n" for s in samples))
    with zipfile.ZipFile(folder / "images.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for picture in sorted((folder / "images").rglob("*.png")):
            file.write(picture, picture.relative_to(folder / "images").as_posix())
    shutil.make_archive(str(folder / "images"), "tar", folder / "images")
    quiet = rich.console.Console(quiet=True)
    llava_tfds.build(folder / "samples.json", folder / "images", folder / "built", 3, quiet)
    return folder


@pytest.fixture(scope="module")
def there(here):
    """The same in a bucket."""
    with bucket_support.emulated():
        for path in sorted(here.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                (epath.Path("gs://bucket/data") / path.relative_to(here).as_posix()).write_bytes(path.read_bytes())
        yield "gs://bucket/data"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("TGA_CACHE", str(tmp_path / "cache"))
    bucket._info.cache_clear()
    return tmp_path / "cache"


def all_of(path, images=None) -> list:
    samples = open_samples(path)
    store = open_pictures(images, samples)
    assert store is not None
    values = [samples[i] for i in range(len(samples))]
    return [(value, store.read(value["image"])) for value in values]


@pytest.mark.parametrize("samples", ["samples.json", "samples.jsonl"])
@pytest.mark.parametrize("images", ["images", "images.zip"])
def test_files_of_samples_with_their_pictures(here, there, samples, images):
    found = all_of(located(f"{there}/{samples}"), located(f"{there}/{images}"))
    assert found == all_of(here / samples, here / images)


@pytest.mark.parametrize("images", ["images", "images.zip"])
def test_a_store_in_a_bucket_is_as_one_here(here, there, images):
    remote, local = open_store(located(f"{there}/{images}")), open_store(here / images)
    assert remote.names() == local.names()
    copy = pickle.loads(pickle.dumps(remote))
    assert copy.read("a b/./é1.png") == local.read("a b/é1.png")
    assert "a b/é1.png" in remote
    for name in ("none.png", "a b"):
        assert name not in remote
        with pytest.raises(UserError, match=f"data/{images}: has no file '{name}'"):
            remote.read(name)
    with pytest.raises(UserError, match=r"'\.\./samples\.json' is no name inside it"):
        remote.read("../samples.json")


def test_shards_are_copied_one_by_one_when_they_are_asked_for(here, there, cache):
    records = open_samples(located(f"{there}/built"))
    shards = lambda: sorted(p.name for p in cache.rglob("llava-train*") if not p.is_symlink())  # noqa: E731
    assert (len(records), shards()) == (ROWS, [])
    assert records[ROWS - 1] == open_samples(here / "built")[ROWS - 1]
    assert [name.split(".array_record-")[1][:5] for name in shards()] == ["00002"]
    assert all_of(located(f"{there}/built")) == all_of(here / "built")
    assert len(shards()) == 3
    copy = pickle.loads(pickle.dumps(records))
    assert copy[0] == records[0]


def test_a_training_reads_the_same_records(here, there):
    def first(root: str) -> list:
        source = LlavaSource(f"{root}/samples.json", f"{root}/images", "vicuna_v1")
        made = source.dataset(Pictures(8), 3)
        return [(r.id, r.turns, r.caption, r.images[0]().tolist()) for r in (made[i] for i in range(ROWS))]

    assert first(there) == first(str(here))


def test_what_was_replaced_is_another_input(here, there):
    source = LlavaSource(f"{there}/samples.json", f"{there}/images")
    local = LlavaSource(str(here / "samples.json"), str(here / "images"))
    assert {k: v.content for k, v in source.inputs().items()} == {k: v.content for k, v in local.inputs().items()}
    place = epath.Path("gs://bucket/data/changing.jsonl")
    place.write_text('{"id": 1}\n')
    assert open_samples(place)[0] == {"id": 1}
    before = LlavaSource(str(place)).inputs()["path"].content
    place.write_text('{"id": 2}\n')
    bucket._info.cache_clear()
    bucket.filesystem().invalidate_cache()
    assert open_samples(place)[0] == {"id": 2}
    assert LlavaSource(str(place)).inputs()["path"].content != before


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("images.tar", "gs://bucket/data/images.tar: in a bucket, where a tar cannot be searched; expected a folder"),
        ("none", "gs://bucket/data/none: no such file or folder, expected a folder or a .zip"),
    ],
)
def test_no_store_is_one_line(there, path, said):
    with pytest.raises(UserError, match=f"^{said}"):
        open_store(located(f"{there}/{path}"))


def test_no_samples_are_one_line(there):
    with pytest.raises(UserError, match=r"^gs://bucket/data/none\.json: cannot be read"):
        open_samples(located(f"{there}/none.json"))
    with pytest.raises(UserError, match=r"gs://bucket/data/images: no finished build"):
        open_samples(located(f"{there}/images"))


def test_a_checkpoint_in_a_bucket_is_copied_before_the_training(there, tmp_path):
    """A folder of the hub; a training's work folder stays where it is."""
    place = epath.Path("gs://bucket/models/small")
    for name, text in {"config.json": "{}", "model.safetensors": "weights", "tokenizer.json": "words"}.items():
        (place / name).write_text(text)
    epath.Path("gs://bucket/runs/one/params/parts.json").write_text("[]")
    data = DataConfig(str(place), lengths=(8,), caption_length=4, source={})
    init = {"llm": str(place), "projector": "gs://bucket/runs/one", "clip": ""}
    config = TrainConfig("t", 0, "x", 1, 1, LossConfig(), OptimConfig(1e-3, ((".*", 1.0),)), data, init)
    found = fetch.fetched(config, rich.console.Console(quiet=True), tmp_path / "run")
    assert found.init == {"llm": found.data.tokenizer, "projector": "gs://bucket/runs/one", "clip": ""}
    assert {p.name: p.read_text() for p in Path(found.init["llm"]).iterdir()} == {
        "config.json": "{}", "model.safetensors": "weights", "tokenizer.json": "words",
    }  # fmt: skip
    missing = dataclasses.replace(config, init={"llm": "gs://bucket/models/none"})
    with pytest.raises(UserError, match=r"gs://bucket/models/none: no such folder, expected a checkpoint"):
        fetch.fetched(missing, rich.console.Console(quiet=True), tmp_path / "run")


def test_validate_data_reads_from_a_bucket(there, capsys):
    arguments = ["validate-data", f"{there}/samples.json", f"--images={there}/images", "--decode"]
    assert run(arguments) == 0, capsys.readouterr().err
    assert f"{there}/samples.json" in capsys.readouterr().out.replace("\n", "")


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["build-data", "x.json", "--to=gs://bucket/x"], "--to"),
        (["caption", "--data=x.json", "--checkpoint=x", "--to=gs://bucket/x.jsonl"], "--to"),
        (["validate-data", "x.json", "--json=gs://bucket/x.json"], "--json"),
    ],
)
def test_what_is_written_lies_here(arguments, flag, capsys):
    assert run(arguments) == 2
    place = arguments[-1].partition("=")[2]
    assert capsys.readouterr().err.endswith(f"{flag}: {place}, expected a path of this machine\n")
