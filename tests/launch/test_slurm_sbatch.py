"""launch/slurm.sbatch, with stand-ins for `tga` and SLURM's programs."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOB = {"SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "8", "SLURM_NTASKS_PER_NODE": "8", "SLURM_GPUS_ON_NODE": "8"}
PROGRAMS = {
    "srun": 'env >"$LOG.env"; echo "srun $* devices=${JAX_LOCAL_DEVICE_IDS:-} cpus=$SRUN_CPUS_PER_TASK" >>"$LOG"\n'
    'exit "${STATUS:-0}"',
    "squeue": 'echo "${STATE:-RUNNING}"',
    "scontrol": 'echo "scontrol $*" >>"$LOG"',
}


class Cluster:
    """A checkout to submit from, and a log of what the script called."""

    def __init__(self, root: Path):
        self.root, self.log, self.bin = root / "a checkout", root / "log", root / "bin"
        (self.root / ".venv" / "bin").mkdir(parents=True)
        self.bin.mkdir()
        (self.root / ".venv" / "bin" / "tga").touch(0o755)
        for name, body in PROGRAMS.items():
            (self.bin / name).write_text(f"#!/bin/sh\n{body}\n")
            (self.bin / name).chmod(0o755)
        self.script = root / "slurm_script"  # SLURM runs a copy
        shutil.copy(ROOT / "launch" / "slurm.sbatch", self.script)

    def run(self, *flags: str, **env: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        job = JOB | {"SLURM_SUBMIT_DIR": str(self.root), "LOG": str(self.log)}
        full = {"PATH": f"{self.bin}:{os.environ['PATH']}"} | job | env
        return subprocess.run(["bash", str(self.script), *flags], env=full, capture_output=True, text=True)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    return Cluster(tmp_path)


STEP = "srun --export=ALL --kill-on-bad-exit=0 --wait=60 .venv/bin/tga train --distributed --config=c.py"


def test_a_task_per_gpu(cluster):
    done = cluster.run("--config=c.py")
    assert done.returncode == 0, done.stderr
    assert cluster.calls() == [f"{STEP} devices= cpus=8"]


def test_a_task_per_node_takes_all_of_its_gpus(cluster):
    cluster.run("--config=c.py", SLURM_NTASKS_PER_NODE="1", SLURM_GPUS_ON_NODE="4")
    assert cluster.calls() == [f"{STEP} devices=0,1,2,3 cpus=8"]


def test_another_command_that_processes_share(cluster):
    assert cluster.run("caption", "--to=x.jsonl").returncode == 0
    [call] = cluster.calls()
    assert ".venv/bin/tga caption --distributed --to=x.jsonl " in call
    assert "'retrieve': expected train, sweep, evaluate or caption" in cluster.run("retrieve", "--x").stderr


def test_variables_reach_the_tasks_and_no_argument_shows_them(cluster):
    done = cluster.run("--config=c.py", PASS_ENV="HF_TOKEN MINE", HF_TOKEN="hf_secret", MINE="a secret")
    assert done.returncode == 0, done.stderr
    seen = (cluster.log.parent / "log.env").read_text().splitlines()
    assert {"HF_TOKEN=hf_secret", "MINE=a secret"} <= set(seen)
    assert "secret" not in "".join([*cluster.calls(), done.stdout, done.stderr])


@pytest.mark.parametrize(
    ("status", "state", "queued"), [("130", "RUNNING", True), ("130", "COMPLETING", False), ("2", "RUNNING", False)]
)
def test_queued_again_if_the_training_was_told_to_end_and_the_job_was_not(cluster, status, state, queued):
    done = cluster.run("--config=c.py", STATUS=status, STATE=state)
    assert done.returncode == int(status)
    assert cluster.calls()[1:] == (["scontrol requeue 17"] if queued else [])


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"SLURM_JOB_ID": ""}, "no job of SLURM's, expected `sbatch launch/slurm.sbatch FLAGS`"),
        ({"SLURM_SUBMIT_DIR": "/"}, ".venv/bin/tga: no such program"),
        ({}, "expected the flags of `tga train`"),
        ({"PASS_ENV": "MINE"}, "PASS_ENV: MINE is not set in the job"),
        ({"PASS_ENV": "a-b"}, "PASS_ENV: 'a-b' is no name of a variable"),
    ],
)
def test_errors_are_one_line(cluster, env, said):
    done = cluster.run(*(["--config=c.py"] if "PASS_ENV" in env else []), **env)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert cluster.calls() == []


def test_the_options_stand_before_the_first_command():
    """sbatch reads none after it."""
    lines = (ROOT / "launch" / "slurm.sbatch").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    options = [line.split()[1] for line in lines if line.startswith("#SBATCH")]
    assert options == [line.split()[1] for line in lines[:first] if line.startswith("#SBATCH")]
    assert {"--signal=TERM@120", "--requeue", "--open-mode=append"} <= set(options)
    counts = dict(option.removeprefix("--").split("=") for option in options if "=" in option)
    assert counts["ntasks-per-node"] == counts["gpus-per-node"]
