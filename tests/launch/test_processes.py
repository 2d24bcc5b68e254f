"""A real training of several processes through launch/multiprocess.sh: as of one; killed, stopped and continued."""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import train_support
from test_multiprocess_sh import ROOT, Copy, until

from tga_jax.models import presets
from tga_jax.train.optim import OptimConfig

pytestmark = pytest.mark.slow

# The real command, with the tests' tiny model among its presets. HOLD: at that step from its start it says so in a
# file, and goes on once SIGTERM has come.
TGA = """#!{python}
import os, pathlib, signal, sys, time
sys.path[:0] = [{root!r}, {tests!r}]
import train_support
pids = pathlib.Path(os.environ["PIDS"])
if len(sys.argv) > 1 and sys.argv[1] == "train":
    new = pids / (os.environ["JAX_PROCESS_ID"] + ".new")
    new.write_text(str(os.getpid()))
    new.rename(new.with_suffix(""))
    os.chdir({root!r})
    from tga_jax import cli
    from tga_jax.models import presets
    presets.LLAVA["tiny"] = train_support.model
    def hold():
        told, handler = [], signal.getsignal(signal.SIGTERM)
        def note(*arguments):
            handler(*arguments)
            told.append(None)
        signal.signal(signal.SIGTERM, note)
        new.with_suffix(".held").touch()
        while not told:
            time.sleep(0.05)
    train_support.at_step(int(os.environ["HOLD"]), hold)
    cli.main()
"""
CONFIG = """import json
from ml_collections import ConfigDict

def get_config():
    return ConfigDict(json.loads({text!r}))
"""


class Cluster:
    def __init__(self, folder: Path):
        train_support.write_data(folder / "data")
        self._copy = Copy(
            folder, TGA.format(python=sys.executable, root=str(ROOT), tests=str(ROOT / "tests" / "train"))
        )
        self._folder = folder
        optimizer = OptimConfig(1e-3, ((r"clip/.*", 0.0), (r".*", 1.0)), warmup=0.0)
        config = train_support.config(
            folder / "data", optim=optimizer, batch_size=4, steps=6, checkpoint_every=2, log_every=1
        )
        self.config = config
        (folder / "config.py").write_text(CONFIG.format(text=json.dumps(dataclasses.asdict(config))))

    def start(self, count: int, name: str, hold: int = 0, devices: int = 1):
        for file in self._copy.pids.iterdir():
            file.unlink()
        flags = [f"--config={self._folder / 'config.py'}", f"--workdir={self._folder / name}"]
        return self._copy.start(str(count), "train", *flags, DEVICES_PER_PROCESS=str(devices), HOLD=str(hold))

    def pid(self, process: int) -> int:
        return int((self._copy.pids / str(process)).read_text())

    def train(self, count: int, name: str, devices: int = 1) -> dict[str, np.ndarray]:
        process = self.start(count, name, devices=devices)
        out, err = process.communicate(timeout=900)
        assert process.returncode == 0, err + out
        return self.params(name)

    def params(self, name: str) -> dict[str, np.ndarray]:
        return train_support.trained(self._folder / name, self.config)

    def lines(self, name: str) -> list[dict]:
        lines = [json.loads(line) for line in (self._folder / name / "metrics.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if not k.startswith(("speed/", "memory/"))} for line in lines]

    def until_held(self, name: str, saved: int) -> None:
        """Until both processes are, and the checkpoint of step `saved` is there."""
        checkpoint = self._folder / name / "checkpoints" / str(saved)
        until(lambda: checkpoint.exists() and len(list(self._copy.pids.glob("*.held"))) == 2)


def assert_close(one: dict, other: dict, lines: list[dict], others: list[dict]) -> None:
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_allclose(one[path], other[path], atol=1e-5, err_msg=path)
    for a, b in zip(lines, others, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(presets.LLAVA, "tiny", train_support.model)


@pytest.mark.parametrize(("count", "devices"), [(2, 1), (4, 1), (2, 2)])
def test_several_processes_train_as_one_does(tmp_path, count, devices):
    """Of four rows a batch, some have no picture: a process may have none of a batch's."""
    cluster = Cluster(tmp_path)
    one, several = cluster.train(1, "one"), cluster.train(count, "several", devices)
    assert_close(one, several, cluster.lines("one"), cluster.lines("several"))


def test_killed_and_stopped_processes_continue_to_identical_parameters(tmp_path):
    cluster = Cluster(tmp_path)
    whole = cluster.train(2, "whole")

    killed = cluster.start(2, "again", hold=3)
    cluster.until_held("again", 2)
    os.kill(cluster.pid(1), signal.SIGKILL)
    _, err = killed.communicate(timeout=900)
    assert killed.returncode == 128 + signal.SIGKILL
    assert "process 1 ended with status 137 (SIGKILL)" in err

    stopped = cluster.start(2, "again", hold=3)
    cluster.until_held("again", 4)
    stopped.send_signal(signal.SIGTERM)  # as a scheduler does before it takes the machines away
    _, err = stopped.communicate(timeout=900)
    assert stopped.returncode == 0, err
    assert "the same command continues there" in err
    assert not (tmp_path / "again" / "params").exists()

    again = cluster.train(2, "again")
    assert again.keys() == whole.keys()
    for path in whole:
        np.testing.assert_array_equal(again[path], whole[path], err_msg=path)
    assert cluster.lines("again") == cluster.lines("whole")
