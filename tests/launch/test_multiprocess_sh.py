"""launch/multiprocess.sh, with a stand-in for `tga` and once with JAX."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Leaves its process id in a file once signals reach it as they are to. One that fails waits for those of the others.
TGA = """#!/usr/bin/env bash
[[ $1 != help ]] || exit 0
i=$JAX_PROCESS_ID
echo "process $i of $JAX_NUM_PROCESSES: $* devices=${JAX_LOCAL_DEVICE_IDS:-} cpu=${JAX_NUM_CPU_DEVICES:-}"
if [[ $1 == stubborn ]]; then
  trap 'echo heard' TERM
else
  trap 'echo saved; exit 130' TERM
  trap 'echo interrupted; exit 130' INT
fi
echo $$ >"$PIDS/$i.new" && mv "$PIDS/$i.new" "$PIDS/$i"
[[ $1 != done ]] || exit 0
if [[ $1 == fail ]] && ((i == 1)); then
  for ((other = 0; other < JAX_NUM_PROCESSES; other++)); do
    until [[ -e $PIDS/$other ]]; do sleep 0.1; done
  done
  echo "the reason" >&2
  exit 7
fi
for _ in {1..6000}; do sleep 0.1; done
"""

JAX = """#!{python}
import sys
if sys.argv[1] == "help":
    sys.exit()
sys.path.insert(0, {root!r})
from tga_jax.train import distributed
distributed.initialize()
import jax, numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec as P
mesh = jax.make_mesh((jax.device_count(),), ("data",))
mine = np.arange(jax.local_device_count()) + 10.0 ** jax.process_index()
x = jax.make_array_from_process_local_data(NamedSharding(mesh, P("data")), mine)
total = jax.jit(lambda x: x.sum(), out_shardings=NamedSharding(mesh, P()))(x)
gathered = multihost_utils.process_allgather(np.array([jax.process_index()]), tiled=True)
print(f"process {{jax.process_index()}} of {{jax.process_count()}}: {{float(total)}} {{gathered.tolist()}}", flush=True)
"""


def until(happens) -> None:
    for _ in range(12_000):  # ten minutes, longer on a busy machine
        if happens():
            return
        time.sleep(0.05)
    raise TimeoutError


def alive(pid: int) -> bool:
    """Whether it runs; one that has ended and was not waited for does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return state not in ("", "Z")


# Tests that run in the background may have been told to ignore SIGINT, and a shell could not trap it then.
HEARING = """import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execvp("bash", ["bash", *sys.argv[1:]])
"""


class Copy:
    """A checkout with the scripts in it, installed already."""

    def __init__(self, root: Path, tga: str):
        self.root, self.pids, self.logs = root / "a checkout", root / "pids", root / "tmp"
        for folder in (self.root / "launch", self.root / ".venv" / "bin", self.pids, self.logs):
            folder.mkdir(parents=True)
        for name in ("local.sh", "multiprocess.sh"):
            shutil.copy(ROOT / "launch" / name, self.root / "launch")
        shutil.copy(ROOT / "pyproject.toml", self.root)
        shutil.copytree(ROOT / "launch" / "constraints", self.root / "launch" / "constraints")
        sums = "{ pwd && cat pyproject.toml launch/constraints/*.txt; } | cksum"
        stamp = subprocess.check_output(sums, shell=True, cwd=self.root, text=True)
        (self.root / ".venv" / "installed-base").write_text(stamp)
        program = self.root / ".venv" / "bin" / "tga"
        program.write_text(tga)
        program.chmod(0o755)

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        full = {"PATH": os.environ["PATH"], "TMPDIR": str(self.logs), "PIDS": str(self.pids), "JAX_PLATFORMS": "cpu"}
        return subprocess.Popen(
            [sys.executable, "-c", HEARING, str(self.root / "launch" / "multiprocess.sh"), *args],
            env=full | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *args: str, **env: str) -> tuple[int, str, str]:
        process = self.start(*args, **env)
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err

    def running(self, count: int) -> list[int]:
        """The process ids of the stand-ins, once all of them listen to signals."""
        until(lambda: len([p for p in self.pids.iterdir() if p.suffix != ".new"]) == count)
        return [int((self.pids / str(i)).read_text()) for i in range(count)]

    def log(self, i: int) -> str:
        (path,) = self.logs.glob(f"*/process-{i}.log")
        return path.read_text()


@pytest.fixture
def copy(tmp_path) -> Copy:
    return Copy(tmp_path, TGA)


def test_all_processes_succeed(copy):
    status, out, err = copy.run("3", "done", "--note", "two words")
    assert status == 0
    assert out == "process 0 of 3: done --note two words devices= cpu=\n"
    (said,) = err.splitlines()
    assert re.fullmatch(r"launch/multiprocess.sh: process 0 writes here, the others to .*/process-\*\.log", said)
    assert copy.log(2) == "process 2 of 3: done --note two words devices= cpu=\n"


def test_one_process_writes_to_the_terminal_alone(copy):
    assert copy.run("1", "done", DEVICES_PER_PROCESS="4") == (0, "process 0 of 1: done devices= cpu=4\n", "")
    assert list(copy.logs.iterdir()) == []


def test_gpus_are_dealt_out(copy):
    env = {"JAX_PLATFORMS": "", "CUDA_VISIBLE_DEVICES": "3,4,5,6"}
    assert copy.run("2", "done", **env)[1] == "process 0 of 2: done devices=0,1 cpu=\n"
    assert "devices=2,3 " in copy.log(1)
    status, _, err = copy.run("3", "done", **env)
    assert (status, err.count("\n")) == (2, 1)
    assert "3 processes cannot share 4 GPUs evenly" in err


def test_a_failure_ends_all_and_is_shown(copy):
    status, _, err = copy.run("3", "fail")
    assert status == 7
    assert err.splitlines()[1:] == [
        "launch/multiprocess.sh: process 1 ended with status 7",
        "[1] process 1 of 3: fail devices= cpu=",
        "[1] the reason",
    ]
    assert copy.log(2).endswith("saved\n")
    assert not any(alive(pid) for pid in copy.running(3))


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_all(copy, victim):
    script = copy.start("2", "wait")
    pids = copy.running(2)
    os.kill(pids[victim], signal.SIGKILL)
    _, err = script.communicate(timeout=600)
    assert script.returncode == 128 + 9
    assert f"process {victim} ended with status 137 (SIGKILL)" in err
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize(("sent", "heard"), [(signal.SIGTERM, "saved"), (signal.SIGINT, "interrupted")])
def test_a_signal_reaches_all(copy, sent, heard):
    script = copy.start("2", "wait")
    pids = copy.running(2)
    script.send_signal(sent)
    out, err = script.communicate(timeout=600)
    assert script.returncode == 130
    assert out.endswith(f"{heard}\n")
    assert copy.log(1).endswith(f"{heard}\n")
    assert "[1]" not in err  # what was asked for is no failure to explain
    assert not any(alive(pid) for pid in pids)


def test_the_third_signal_kills(copy):
    script = copy.start("2", "stubborn")
    pids = copy.running(2)
    for heard in range(3):
        until(lambda heard=heard: copy.log(1).count("heard") == heard)  # signals that come at once would be one
        script.send_signal(signal.SIGTERM)
    script.communicate(timeout=600)
    assert script.returncode == 128 + 9
    assert not any(alive(pid) for pid in pids)


@pytest.mark.slow
def test_a_process_that_does_not_end_is_killed_when_another_fails(copy):
    script = copy.start("2", "stubborn")
    pids = copy.running(2)
    os.kill(pids[1], signal.SIGKILL)
    script.communicate(timeout=600)
    assert not any(alive(pid) for pid in pids)


@pytest.mark.parametrize(
    ("args", "env", "said"),
    [
        (("0", "done"), {}, "N is '0', expected a number of processes from 1"),
        (("two", "done"), {}, "N is 'two', expected a number of processes from 1"),
        (("2",), {}, "COMMAND: missing, expected one of `tga`'s such as train"),
        (("2", "done"), {"DEVICES_PER_PROCESS": "x"}, "DEVICES_PER_PROCESS is 'x', expected a number"),
    ],
)
def test_bad_arguments_are_one_line(copy, args, env, said):
    status, out, err = copy.run(*args, **env)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"launch/multiprocess.sh: {said}")


def test_usage(copy):
    assert copy.run("--help")[1].startswith("usage: bash launch/multiprocess.sh N COMMAND")
    status, out, err = copy.run()
    assert (status, out) == (2, "")
    assert err.startswith("usage: ")


def test_jax_sums_over_all_processes(tmp_path):
    copy = Copy(tmp_path, JAX.format(python=sys.executable, root=str(ROOT)))
    status, out, err = copy.run("2", "train", DEVICES_PER_PROCESS="2")
    assert status == 0, err + out + copy.log(1)
    # The devices hold 1, 2 (process 0) and 10, 11.
    assert "process 0 of 2: 24.0 [0, 1]" in out.splitlines()
    assert "process 1 of 2: 24.0 [0, 1]" in copy.log(1).splitlines()
