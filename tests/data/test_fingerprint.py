"""What a run's inputs held: by content, cheaply, wherever and whenever it was put there."""

import json
import os
import shutil
import time
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tga_jax import workdir
from tga_jax.checkpoints import orbax_files
from tga_jax.data import fingerprint
from tga_jax.data.media import open_store
from tga_jax.data.samples import SampleFile
from tga_jax.errors import UserError
from tga_jax.workdir import Input


def hub(folder: Path) -> Path:
    """In the layout of a sharded folder of the hub."""
    folder.mkdir()
    for i in (1, 2):
        (folder / f"model-0000{i}-of-00002.safetensors").write_bytes(bytes([i]) * 1000)
    for name in ("config.json", "tokenizer.json", "model.safetensors.index.json", "README.md", "chat_template.jinja"):
        (folder / name).write_text(name)
    return folder


def test_a_copy_is_the_same_whatever_its_times_and_place(tmp_path):
    one = hub(tmp_path / "one")
    shutil.copytree(one, tmp_path / "far" / "other")
    for path in (tmp_path / "far" / "other").iterdir():
        os.utime(path, (0, 0))
    found = fingerprint.of_checkpoint(one)
    assert found == fingerprint.of_checkpoint(tmp_path / "far" / "other")
    assert sorted(found) == [
        "chat_template.jinja",
        "config.json",
        *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2)),
        "model.safetensors.index.json",
        "tokenizer.json",
    ]
    (one / "README.md").write_text("new")
    (one / ".cache").mkdir()
    (one / ".cache" / "x.json").write_text("")
    assert fingerprint.of_checkpoint(one) == found
    assert sorted(fingerprint.of_tokenizer(one)) == ["chat_template.jinja", "config.json", "tokenizer.json"]
    (one / "processor_config.json").write_text("{}")  # which may hold a chat template
    assert "processor_config.json" in fingerprint.of_tokenizer(one)
    (one / "processor_config.json").unlink()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: (f / "config.json").write_text("another"), "config.json had 11 bytes and has 7"),
        (lambda f: (f / "config.json").write_text("CONFIG.JSON"), "config.json has other bytes, 11 as before"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json is not there any more"),
        (lambda f: (f / "new.json").write_text(""), "new.json is new"),
        (
            lambda f: (f / "model-00002-of-00002.safetensors").write_bytes(bytes([2]) * 999 + b"x"),
            "model-00002-of-00002.safetensors has other bytes, 1,000 as before",
        ),
    ],
)
def test_what_changed_is_said(tmp_path, change, said):
    folder = hub(tmp_path / "hub")
    old = fingerprint.of_checkpoint(folder)
    change(folder)
    assert workdir.replaced(old, fingerprint.of_checkpoint(folder)) == [said]


def test_checkpoints_of_ours_and_trainings_by_part(tmp_path):
    params = {part: {"a": np.arange(8.0)} for part in ("clip", "llm")}
    orbax_files.save_params(tmp_path / "run", params)
    for name in ("metrics.jsonl", "config.json", "checkpoints/4/state"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_text("")
    shutil.copytree(tmp_path / "run", tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "checkpoints")
    whole, part = fingerprint.of_checkpoint(tmp_path / "run"), fingerprint.of_checkpoint(tmp_path / "run", "llm")
    assert whole == fingerprint.of_checkpoint(tmp_path / "moved")
    assert part == {name: value for name, value in whole.items() if name.startswith("params/llm/")}
    assert part
    params["llm"]["a"][3] += 1
    orbax_files.save_params(tmp_path / "moved", {"llm": params["llm"]})
    assert part != fingerprint.of_checkpoint(tmp_path / "moved", "llm")


def test_what_is_not_there_is_compared_with_nothing(tmp_path):
    for of in (fingerprint.of_checkpoint, fingerprint.of_tokenizer, fingerprint.of_samples):
        found = of(tmp_path / "none")
        assert (found.content if isinstance(found, workdir.Input) else found) == {}
    workdir.check_inputs({"a": {".": "3:x"}}, {"a": Input("none", {})}, "run", "-")


@pytest.mark.parametrize("at", [0, 0.37, 1])
def test_of_a_huge_file_little_is_read(tmp_path, at):
    """A sparse file of 100 GB; a change of a thousandth of it is seen wherever it lies."""
    size, part = 100 * 10**9, 100 * 10**6
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.truncate(size)
    started = time.monotonic()
    before = fingerprint.of_checkpoint(path)
    assert time.monotonic() - started < 5
    with path.open("rb+") as file:
        file.seek(int(at * (size - part)))
        file.write(b"x" * part)
    assert workdir.replaced(before, fingerprint.of_checkpoint(path)) == [f"has other bytes, {size:,} as before"]


@hypothesis.given(st.binary(min_size=1, max_size=300), st.data())
@hypothesis.settings(max_examples=50)
def test_every_byte_of_a_small_file_counts(tmp_path_factory, data, draw):
    path = tmp_path_factory.mktemp("f") / "samples.jsonl"
    path.write_bytes(data)
    before = fingerprint.of_samples(path).content
    place = draw.draw(st.integers(0, len(data) - 1))
    path.write_bytes(data[:place] + bytes([data[place] ^ draw.draw(st.integers(1, 255))]) + data[place + 1 :])
    assert workdir.replaced(before, fingerprint.of_samples(path).content) == [f"has other bytes, {len(data)} as before"]


def test_of_samples_every_byte_counts_however_many(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "_WHOLE", 100)
    monkeypatch.setattr(fingerprint, "_BLOCKS", 3)
    monkeypatch.setattr(fingerprint, "_BLOCK", 10)
    path = tmp_path / "samples.jsonl"
    seen = []
    for name in (None, 20, 500):
        path.write_bytes(b"".join(b"x" if i == name else b"." for i in range(1000)))
        seen.append((fingerprint.of_samples(path).content["."], fingerprint.of_checkpoint(path)["."]))
    assert len({whole for whole, _ in seen}) == 3
    assert seen[0][1] == seen[1][1] != seen[2][1]


def test_pictures_by_their_names_in_a_folder_or_an_archive(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rows = [{"image": f"{i}.png"} if i % 3 else {"image": [f"{i}.png", "b.png"]} for i in range(200)]
    rows[5], rows[6] = {"image": None}, "no sample"
    for i in range(200):
        (images / f"{i}.png").write_bytes(bytes([i]) * (i + 1))
    (tmp_path / "s.json").write_text(json.dumps(rows))
    samples = SampleFile(tmp_path / "s.json")
    found = fingerprint.of_pictures(samples, open_store(images))
    assert 60 <= len(found.content) <= 64
    shutil.make_archive(str(tmp_path / "archive"), "zip", images)
    assert fingerprint.of_pictures(samples, open_store(tmp_path / "archive.zip")).content == found.content
    (images / "more.png").write_bytes(b"more")
    assert fingerprint.of_pictures(samples, open_store(images)) == found
    # One that could not be read at first is no change; one that holds something else is.
    known = {"images": dict(list(found.content.items())[1:])}
    workdir.check_inputs(known, {"images": found}, "run", "-")
    name = next(iter(known["images"]))
    (images / name).write_bytes(b"other")
    changed = fingerprint.of_pictures(samples, open_store(images))
    said = (
        rf"^run: images, {images}, is not what this run began with: {name} had .* bytes and has 5; put that back, or -$"
    )
    with pytest.raises(UserError, match=said):
        workdir.check_inputs(known, {"images": changed}, "run", "-")


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("{}")

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match=r"a.jsonl: cannot be read \(Permission denied\)"):
        fingerprint.of_samples(path)
