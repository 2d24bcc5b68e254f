"""Checkpoints that were damaged after they were written: the one before is used, and one line says so."""

import io
import os
import random
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
import train_support
from test_loop import assert_same_run, steps_kept

from tga_jax.checkpoints import orbax_files
from tga_jax.errors import UserError
from tga_jax.models import presets, sharding
from tga_jax.train import loop, stopping

pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # orbax drops half-read arrays
]


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(presets.LLAVA, "tiny", train_support.model)
    monkeypatch.setattr(sharding, "place_batch", sharding.place_batch)


def run(config, workdir: Path) -> str:
    said = io.StringIO()
    loop.run(config, workdir, rich.console.Console(file=said, width=1000))
    return said.getvalue()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(a config, its work folder when done, and stopped behind step 3 with the checkpoints of steps 2 and 3)."""
    root = tmp_path_factory.mktemp("runs")
    train_support.write_data(root / "data")
    config = train_support.config(root / "data", checkpoint_every=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.LLAVA, "tiny", train_support.model)
        patch.setattr(sharding, "place_batch", sharding.place_batch)
        run(config, root / "whole")
        train_support.at_step(3, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(stopping.Interrupted):
            run(config, root / "stopped")
    assert steps_kept(root / "stopped") == [2, 3]
    return config, root / "whole", root / "stopped"


def arrays(checkpoint: Path) -> list[Path]:
    """The files of the arrays' numbers, the largest first."""
    files = [path for path in (checkpoint / "state").rglob("*") if path.is_file() and "/d/" in str(path)]
    return sorted(files, key=lambda path: (-path.stat().st_size, path.name))


def flip(path: Path, rng: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


DAMAGES = {
    "a file of numbers is gone": lambda at: arrays(at)[0].unlink(),
    "half a file of numbers": lambda at: os.truncate(arrays(at)[0], arrays(at)[0].stat().st_size // 2),
    "empty metadata": lambda at: (at / "state" / "_METADATA").write_text(""),
    "the whole state is gone": lambda at: shutil.rmtree(at / "state"),
    "other sums": lambda at: next((at / "sums").iterdir()).write_text("{"),
}


def state_of(step: int) -> dict:
    rng = np.random.default_rng(step)
    moments = {"mu": jnp.asarray(rng.normal(size=(3, 40, 9)), jnp.bfloat16), "count": jnp.int32(step)}
    return {
        "step": jnp.int32(step),
        "trainable": {"a/b": jnp.asarray(rng.normal(size=(7, 50)), jnp.float32)},
        **moments,
    }


@pytest.fixture(scope="module", name="saved")
def fixture_saved(tmp_path_factory) -> Path:
    """The checkpoints of steps 2 and 3 of no training."""
    workdir = tmp_path_factory.mktemp("saved") / "run"
    store = orbax_files.Checkpoints(workdir, 2)
    for step in (2, 3):
        store.save(step, state_of(step))
    store.wait()
    store.close()
    return workdir


def restored(workdir: Path) -> tuple[int, list[str]]:
    """(the step that is restored, what was said); its state is whole."""
    said: list[str] = []
    store = orbax_files.Checkpoints(workdir, 2)
    step, state = store.restore_newest(state_of(0), said.append)
    store.close()
    jax.tree.map(np.testing.assert_array_equal, state, state_of(step))
    return step, said


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_one_before_is_used(saved, tmp_path, damage):
    workdir = Path(shutil.copytree(saved, tmp_path / "run"))
    damage(workdir / "checkpoints" / "3")
    step, (said,) = restored(workdir)
    assert step == 2
    assert said.startswith(f"{workdir}/checkpoints/3: cannot be restored (")
    assert said.endswith("); it is removed, and the training goes on from step 2")
    assert steps_kept(workdir) == [2]


@pytest.mark.parametrize("trials", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_restored(saved, tmp_path, trials):
    """Of any file of the checkpoint: it is found, or it changes nothing that is read."""
    found = []
    for trial in range(trials):
        rng = random.Random(trial)
        workdir = Path(shutil.copytree(saved, tmp_path / str(trial)))
        files = sorted(path for path in (workdir / "checkpoints" / "3").rglob("*") if path.is_file())
        flip(rng.choices(files, [path.stat().st_size for path in files])[0], rng)
        found.append(restored(workdir)[0])
        shutil.rmtree(workdir)
    assert 0.3 * trials < found.count(2) < trials


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_the_training_is_that_which_was_not_damaged(runs, tmp_path, damage):
    config, whole, stopped = runs
    workdir = Path(shutil.copytree(stopped, tmp_path / "run"))
    damage(workdir / "checkpoints" / "3")
    assert "it is removed, and the training goes on from step 2\n" in run(config, workdir)
    assert_same_run(workdir, whole, config)
    assert steps_kept(workdir) == [3, 4]


def test_nothing_is_removed_if_none_is_whole(saved, tmp_path):
    workdir = Path(shutil.copytree(saved, tmp_path / "run"))
    for step in (2, 3):
        arrays(workdir / "checkpoints" / str(step))[0].unlink()
    said = r"checkpoints/3: cannot be restored \(.*\); nor can any before it; remove .*/checkpoints to start anew$"
    with pytest.raises(UserError, match=said):
        restored(workdir)
    assert steps_kept(workdir) == [2, 3]


def test_checkpoints_of_earlier_versions_have_no_sums(saved, tmp_path):
    workdir = Path(shutil.copytree(saved, tmp_path / "run"))
    for step in (2, 3):
        shutil.rmtree(workdir / "checkpoints" / str(step) / "sums")
    assert restored(workdir) == (3, [])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "bool", "uint8"])
def test_every_changed_bit_changes_the_sum(dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 2, (3, 5)) if dtype == "bool" else rng.normal(0, 9, (3, 5)), dtype)
    before = orbax_files._sum(x)
    bits = np.asarray(x).view(np.uint8)
    seen = set()
    for at in range(bits.size):
        for bit in range(1 if dtype == "bool" else 8):  # of a bool, the one that it has
            changed = bits.copy()
            changed.flat[at] ^= 1 << bit
            after = orbax_files._sum(jnp.asarray(changed.view(np.asarray(x).dtype)))
            assert after != before
            seen.add(int(after))
    assert len(seen) >= bits.size - 1  # and not all to the same
    turned = orbax_files._sum(x[::-1])
    assert turned != before


def test_damaged_parameters_are_named(tmp_path):
    params = {"projector": {"linear": {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.ones(4)}}}
    orbax_files.save_params(tmp_path, params)
    like = jax.eval_shape(lambda: params["projector"])
    sums = (tmp_path / "params" / "sums.json").read_text()
    params["projector"]["linear"]["kernel"] = params["projector"]["linear"]["kernel"].at[1, 2].add(1e-6)
    orbax_files.save_params(tmp_path, params)
    orbax_files.load_params(tmp_path, "projector", like)
    (tmp_path / "params" / "sums.json").write_text(sums)
    said = r"params/projector: damaged, \['linear'\]\['kernel'\] float32 is not what was written"
    with pytest.raises(UserError, match=said):
        orbax_files.load_params(tmp_path, "projector", like)
    orbax_files.load_params(tmp_path, "projector", {"linear": {"kernel": ..., "bias": like["linear"]["bias"]}})
    (tmp_path / "params" / "sums.json").write_text('{"projector": 3}')
    with pytest.raises(UserError, match="params/projector: damaged, 3 in place of the sums of its arrays"):
        orbax_files.load_params(tmp_path, "projector", like)
    (tmp_path / "params" / "sums.json").unlink()  # of an earlier version
    orbax_files.load_params(tmp_path, "projector", like)
