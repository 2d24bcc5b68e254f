"""A training whose work folder lies in a bucket: an emulator of Google Cloud Storage, asked by the real libraries."""

import io
import json
import os
import signal
from pathlib import Path

import bucket_support
import pytest
import rich.console
import train_support
from etils import epath

from tga_jax import workdir
from tga_jax.checkpoints import orbax_files
from tga_jax.errors import UserError
from tga_jax.models import presets, sharding
from tga_jax.train import loop, stopping


@pytest.fixture(scope="module")
def bucket():
    """A path in an empty bucket."""
    with bucket_support.emulated():
        yield "gs://bucket/runs"


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(presets.LLAVA, "tiny", train_support.model)
    monkeypatch.setattr(sharding, "place_batch", sharding.place_batch)  # restored after each test


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "samples"
    train_support.write_data(folder)
    return folder


def run(config, folder) -> None:
    loop.run(config, folder, rich.console.Console(file=io.StringIO()))


def losses(folder) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_training_in_a_bucket_is_stopped_continued_and_read(bucket, data, tmp_path):
    config, there, here = train_support.config(data), workdir.located(f"{bucket}/one"), tmp_path / "run"
    run(config, here)
    train_support.at_step(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(stopping.Interrupted):
        run(config, there)
    assert losses(there) == losses(here)[:2]
    assert not orbax_files.has_params(there)
    run(config, there)
    assert losses(there) == losses(here)
    assert any((there / "tensorboard").iterdir())
    assert sorted(path.name for path in (there / "checkpoints").iterdir()) == ["3", "4"]
    found, expected = train_support.trained(there, config), train_support.trained(here, config)
    assert all((found[path] == expected[path]).all() for path in expected)

    run(config, there)  # is done
    with pytest.raises(UserError, match=r"gs://bucket/runs/one holds another run: config.seed is 3 there and 7 now"):
        run(train_support.config(data, seed=7), there)
    # A training that goes on from this one's parts.
    run(train_support.config(data, init={**config.init, "projector": f"{bucket}/one"}), tmp_path / "next")


def test_a_bucket_that_is_not_there_is_one_line(bucket, data):
    with pytest.raises(UserError, match=r"gs://nobody/run: .*expected a bucket that can be read and written"):
        run(train_support.config(data), workdir.located("gs://nobody/run"))


def test_what_is_no_place_is_refused(monkeypatch):
    assert isinstance(workdir.located("gs://bucket/x"), epath.Path)
    assert workdir.located("runs/x") == Path("runs/x")
    with pytest.raises(UserError, match="s3://bucket/x: expected a path or gs://bucket/folder"):
        workdir.located("s3://bucket/x")
    monkeypatch.setattr(workdir.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"gs://bucket/x: needs gcsfs; install it: bash launch/local\.sh install gcs"):
        workdir.located("gs://bucket/x")
