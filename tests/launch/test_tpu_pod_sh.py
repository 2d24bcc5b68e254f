"""launch/tpu_pod.sh, with a stand-in for gcloud that notes its arguments and runs remote commands here."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_multiprocess_sh import until

ROOT = Path(__file__).resolve().parents[2]

GCLOUD = """#!/usr/bin/env bash
printf '%s\\0' "$@" >>"$LOG"
printf '\\n' >>"$LOG"
kept=() # of the environment: sshd takes LC_ variables alone, if ssh sends them
for argument in "$@"; do
  case $argument in
    --ssh-flag=-oSendEnv=LC_*) [[ -n ${REFUSED:-} ]] || kept+=("LC_TGA_ENV=$LC_TGA_ENV") ;;
    --command=*) cd "$HOST" && exec env -i "PATH=$PATH" "HOST=$HOST" "${kept[@]}" bash -c "${argument#--command=}" ;;
    *tga_jax-*) [[ $4 != scp ]] || cp "$argument" "$HOST/tga_jax.tar.gz" ;;
  esac
done
"""

TGA = """#!/usr/bin/env bash
trap 'echo saved; exit 130' TERM
printf '<%s>' "$@"
echo
printf '%s' "${HF_TOKEN+<HF_TOKEN=$HF_TOKEN>}${WANDB_API_KEY+<WANDB>}${ODD+<ODD=$ODD>}${LC_TGA_ENV+<packed>}" >env.seen
[[ $* != *wait* ]] || for _ in {1..6000}; do sleep 0.1; done
exit 3
"""


class Pod:
    """A checkout, a host's home folder and a log of what gcloud was called with."""

    def __init__(self, root: Path):
        self.root, self.host, self.bin, self.calls_file = root / "checkout", root / "home", root / "bin", root / "log"
        for folder in (self.root / "launch", self.host / "tga_jax" / ".venv" / "bin", self.bin):
            folder.mkdir(parents=True)
        shutil.copy(ROOT / "launch" / "tpu_pod.sh", self.root / "launch")
        for path, text in ((self.bin / "gcloud", GCLOUD), (self.host / "tga_jax" / ".venv" / "bin" / "tga", TGA)):
            path.write_text(text)
            path.chmod(0o755)

    def start(self, *args: str, **env: str) -> subprocess.Popen[str]:
        self.calls_file.write_text("")
        full = {"PATH": f"{self.bin}:{os.environ['PATH']}", "LOG": str(self.calls_file), "HOST": str(self.host)}
        full |= {"ZONE": "z-a", "TPU_NAME": "mine"} | env
        script = ["bash", str(self.root / "launch" / "tpu_pod.sh"), *args]
        return subprocess.Popen(script, env=full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *args: str, **env: str) -> tuple[int, str, str]:
        process = self.start(*args, **env)
        out, err = process.communicate(timeout=600)
        return process.returncode, out, err

    def calls(self) -> list[list[str]]:
        return [call.split("\0") for call in self.calls_file.read_text().split("\0\n") if call]


@pytest.fixture
def pod(tmp_path) -> Pod:
    return Pod(tmp_path)


ENDS = ["--zone=z-a", "--quiet"]


@pytest.mark.parametrize(
    ("kind", "image"),
    [
        ("v6e-16", "v2-alpha-tpuv6e"),
        ("v5p-128", "v2-alpha-tpuv5"),
        ("v5litepod-16", "v2-alpha-tpuv5-lite"),
        ("v4-32", "tpu-ubuntu2204-base"),
    ],
)
def test_create(pod, kind, image):
    assert pod.run("create", ACCELERATOR_TYPE=kind)[0] == 0
    flags = [f"--accelerator-type={kind}", f"--version={image}"]
    assert pod.calls() == [["compute", "tpus", "tpu-vm", "create", "mine", *flags, *ENDS]]


def test_a_queued_spot_slice_in_a_project(pod):
    env = {"QUEUED": "1", "SPOT": "1", "PROJECT": "p", "RUNTIME_VERSION": "own", "ACCELERATOR_TYPE": "v9-1"}
    assert pod.run("create", **env)[0] == 0
    flags = ["--node-id=mine", "--accelerator-type=v9-1", "--spot", "--runtime-version=own"]
    expected = ["compute", "tpus", "queued-resources", "create", "mine", *flags, *ENDS, "--project=p"]
    assert pod.calls() == [expected]
    assert pod.run("delete", QUEUED="1")[0] == 0
    assert pod.calls() == [["compute", "tpus", "queued-resources", "delete", "mine", "--force", *ENDS]]


def test_setup_copies_what_git_tracks_and_installs_it(pod):
    (pod.root / "a file.txt").write_text("text")
    (pod.root / "untracked.txt").write_text("text")
    for command in (["init", "-q"], ["add", "launch", "a file.txt"]):
        subprocess.run(["git", *command], cwd=pod.root, check=True)
    tools = pod.host / "tools"
    tools.mkdir()
    (tools / "python3").write_text('#!/bin/sh\necho "$PWD $*" >>"$HOST/python3.log"\n')
    (tools / "python3").chmod(0o755)
    status, _, err = pod.run("setup", PATH=f"{tools}:{pod.bin}:{os.environ['PATH']}")
    assert status == 0, err
    copied, installed = pod.calls()
    assert copied[2:4] == ["tpu-vm", "scp"]
    assert copied[5:] == ["mine:tga_jax.tar.gz", "--worker=all", *ENDS]
    assert not Path(copied[4]).exists()  # the archive is gone again
    assert installed[2:6] == ["tpu-vm", "ssh", "mine", "--worker=all"]
    with tarfile.open(pod.host / "tga_jax.tar.gz") as archive:
        assert sorted(archive.getnames()) == ["a file.txt", "launch/tpu_pod.sh"]
    assert (pod.host / "tga_jax" / "a file.txt").read_text() == "text"
    locked = "launch/constraints/python3.12.txt"
    assert (ROOT / locked).exists()
    assert (pod.host / "python3.log").read_text().splitlines()[-1] == (
        f"{pod.host}/tga_jax -m uv pip install --quiet --python .venv/bin/python --constraints {locked} "
        f"--build-constraints {locked} -e .[tpu,gcs]"
    )


def test_setup_mounts_the_shared_folder(pod):
    subprocess.run(["git", "init", "-q"], cwd=pod.root, check=True)
    script = pod.run("setup", NFS="10.0.0.2:/a b", DRY_RUN="1")[1].splitlines()[-1]
    assert "mountpoint -q /mnt/shared ||" in script
    assert "sudo mount -t nfs 10.0.0.2:/a\\\\ b /mnt/shared" in script
    assert pod.calls() == []


def test_run_passes_arguments_output_and_status(pod):
    status, out, _ = pod.run("run", "--config=c.py", "--config.note=it's $HOME; `two` words")
    assert status == 3
    assert out == "<train><--distributed><--config=c.py><--config.note=it's $HOME; `two` words>\n"
    (call,) = pod.calls()
    assert call[:6] == ["compute", "tpus", "tpu-vm", "ssh", "mine", "--worker=all"]


def test_a_training_outlives_its_connection_and_can_be_seen_again_and_stopped(pod):
    pid_file, log = pod.host / "tga_jax" / "run.pid", pod.host / "tga_jax" / "run.log"
    said = "<train><--distributed><--wait>\n"
    first = pod.start("run", "--wait")
    try:
        until(lambda: pid_file.exists() and pid_file.read_text() and log.exists() and log.read_text() == said)
        first.send_signal(signal.SIGKILL)
        pid = pid_file.read_text()
        second = pod.start("run", "--wait")
        assert second.stdout is not None
        assert second.stdout.readline() == "a training runs already; this is what it writes\n"
        assert second.stdout.readline() == said
        assert said in pod.run("status")[1]
        assert pod.run("stop")[0] == 0
        assert second.communicate(timeout=600)[0] == "saved\n"
        assert second.returncode == 130
        assert pid_file.read_text() == pid
        assert pod.run("stop")[1] == "no training runs\n"
        assert pod.run("status")[1].endswith("no training runs\n")
    finally:
        if pid_file.exists() and not (pid_file.parent / "run.status").exists():
            os.kill(int(pid_file.read_text()), signal.SIGKILL)


SECRETS = {"HF_TOKEN": "hf_secret", "ODD": 'it\'s $HOME; a\n"second" line'}


def test_chosen_variables_reach_the_training_and_nothing_else_sees_them(pod):
    status, out, err = pod.run("run", "--config=c.py", PASS_ENV="ODD", **SECRETS)
    assert status == 3, err
    assert out.splitlines() == ["passed to all hosts: HF_TOKEN ODD", "<train><--distributed><--config=c.py>"]
    home = pod.host / "tga_jax"
    assert (home / "env.seen").read_text() == f"<HF_TOKEN={SECRETS['HF_TOKEN']}><ODD={SECRETS['ODD']}>"
    (home / "env.seen").unlink()
    places = [out, err, pod.calls_file.read_text(), *(f.read_text() for f in home.rglob("*") if f.is_file())]
    assert not any("secret" in text or "second" in text or "aGZfc2VjcmV0" in text for text in places)
    assert "--ssh-flag=-oSendEnv=LC_TGA_ENV" in pod.calls()[0]


def test_another_command_that_processes_share(pod):
    assert pod.run("run", "evaluate", "--to=/mnt/shared/x")[1] == "<evaluate><--distributed><--to=/mnt/shared/x>\n"


def test_a_host_that_takes_no_variables_says_so(pod):
    status, _, err = pod.run("run", "--config=c.py", HF_TOKEN="hf_secret", REFUSED="1")
    assert (status, err) == (2, "HF_TOKEN did not come: sshd here takes no LC_ variables\n")


def test_several_slices(pod):
    slices = {"QUEUED": "1", "NUM_SLICES": "2"}
    assert pod.run("create", **slices, ACCELERATOR_TYPE="v5litepod-256")[0] == 0
    nodes = ["--node-count=2", "--node-prefix=mine", "--accelerator-type=v5litepod-256"]
    expected = ["compute", "tpus", "queued-resources", "create", "mine", *nodes]
    assert pod.calls() == [[*expected, "--runtime-version=v2-alpha-tpuv5-lite", *ENDS]]
    assert pod.run("run", "--config.mesh.num_slices=2", **slices)[1] == (
        "<train><--distributed><--config.mesh.num_slices=2>\n"
    )
    assert pod.calls()[0][2:7] == ["queued-resources", "ssh", "mine", "--node=all", "--worker=all"]


def test_dry_run_prints_and_runs_nothing(pod):
    status, out, _ = pod.run("create", DRY_RUN="1")
    assert status == 0
    assert out.startswith("gcloud compute tpus tpu-vm create mine --accelerator-type=v5litepod-16 ")
    assert pod.calls() == []


@pytest.mark.parametrize(
    ("args", "env", "said"),
    [
        (("create",), {"ZONE": ""}, "ZONE: not set"),
        (("create",), {"ACCELERATOR_TYPE": "h100"}, "ACCELERATOR_TYPE: no image is known for h100"),
        (("begin",), {}, "unknown command 'begin'"),
        (("stop", "now"), {}, "stop: unknown argument 'now'"),
        (("run",), {}, "run: expected the flags of `tga train`"),
        (("run", "retrieve", "--x"), {}, "run: 'retrieve', expected train, sweep, evaluate or caption"),
        (("run", "--x"), {"PASS_ENV": "NOT_THERE"}, "PASS_ENV: NOT_THERE is not set"),
        (("run", "--x"), {"PASS_ENV": "a=b"}, "PASS_ENV: 'a=b' is no name of a variable"),
        (("create",), {"NUM_SLICES": "2"}, "NUM_SLICES=2: several slices need QUEUED=1"),
        (("create",), {"NUM_SLICES": "0"}, "NUM_SLICES is '0', expected a number from 1"),
    ],
)
def test_errors_are_one_line(pod, args, env, said):
    status, out, err = pod.run(*args, **env)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"launch/tpu_pod.sh: {said}")
    assert pod.calls() == []
