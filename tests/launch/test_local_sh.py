"""launch/local.sh, with stand-ins for Python, pip and `tga`: nothing is installed."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Stands for the Python that makes the environment, and, copied there, for the environment's own. Every call is logged.
PYTHON = """#!/bin/sh
echo "$(basename "$0") $*" >> "$LOG"
case "$*" in
  -c*) echo "${VERSION:-3.12}" ;;
  "-m venv .venv")
    mkdir -p .venv/bin
    for name in python tga; do cp "$0" ".venv/bin/$name"; done ;;
  "-m pip install"*)
    echo "$PIP_CONSTRAINT $PIP_BUILD_CONSTRAINT" >> "$LOG.constraints"
    if [ -n "${PIP_FAILS:-}" ]; then echo "no such package" >&2; exit 1; fi ;;
  "-m ${BAD_TOOL:-none}"*) exit 1 ;;
esac
"""


class Copy:
    """A checkout with the script in it, and a log of what the script called."""

    def __init__(self, root: Path):
        self.root, self.log = root, root.parent / f"{root.name}.log"
        (root / "launch").mkdir(parents=True)
        shutil.copy(ROOT / "launch" / "local.sh", root / "launch")
        shutil.copytree(ROOT / "launch" / "constraints", root / "launch" / "constraints")
        shutil.copy(ROOT / "pyproject.toml", root)
        self.python = root.parent / "anypython"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)

    def run(self, *args: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        return subprocess.run(
            ["bash", str(self.root / "launch" / "local.sh"), *args],
            cwd=cwd or self.root.parent,
            env={"PATH": os.environ["PATH"], "LOG": str(self.log), "PYTHON": str(self.python)} | env,
            capture_output=True,
            text=True,
        )

    def calls(self) -> list[str]:
        """The calls of the last run but the questions after versions."""
        return [c for c in self.log.read_text().splitlines() if " -c " not in c and "pip --version" not in c]


@pytest.fixture
def copy(tmp_path) -> Copy:
    return Copy(tmp_path / "a checkout")


def installs(calls: list[str]) -> list[str]:
    return [call.split()[-1] for call in calls if "pip install" in call]


def test_no_arguments_is_a_usage_error(copy):
    done = copy.run()
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("usage: bash launch/local.sh COMMAND")
    assert not (copy.root / ".venv").exists()


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help(copy, flag):
    done = copy.run(flag)
    assert done.returncode == 0
    for word in ("demo", "test", "install", "PYTHON", "3.11"):
        assert word in done.stdout
    assert copy.calls() == []


def test_unknown_python_is_one_line(copy):
    done = copy.run("demo", PYTHON="no-such-python")
    assert done.returncode == 2
    assert done.stderr == (
        "launch/local.sh: no-such-python cannot be run, expected Python 3.11 to 3.13; name one with PYTHON=...\n"
    )
    assert not (copy.root / ".venv").exists()


@pytest.mark.parametrize("version", ["3.9", "3.14"])
def test_another_python_is_one_line(copy, version):
    done = copy.run("demo", VERSION=version)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"is Python {version}, expected 3.11 to 3.13" in done.stderr
    assert not (copy.root / ".venv").exists()


def test_first_run_installs_and_the_second_does_not(copy):
    first = copy.run("demo", "--config.seed=1", "--note", "two words")
    assert first.returncode == 0, first.stderr
    assert copy.calls() == [
        "anypython -m venv .venv",
        "python -m pip install --quiet --disable-pip-version-check --no-compile -e .",
        "tga demo --config.seed=1 --note two words",
    ]
    locked = "launch/constraints/python3.12.txt"
    assert Path(f"{copy.log}.constraints").read_text() == f"{locked} {locked}\n"
    second = copy.run("train", "--help")
    assert second.returncode == 0
    assert second.stderr == ""
    assert copy.log.read_text() == "tga train --help\n"  # not even a question after a version


def test_runs_from_the_root_whatever_the_folder(copy, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "launch").mkdir()
    assert copy.run("demo", cwd=elsewhere, CDPATH=str(elsewhere)).returncode == 0
    assert (copy.root / ".venv").exists()
    assert not (elsewhere / ".venv").exists()


def test_the_tests_bring_their_extra_which_also_serves_the_commands(copy):
    copy.run("demo")
    copy.run("test")
    assert installs(copy.calls()) == [".[test]"]
    for command in ("test", "demo"):
        copy.run(command)
        assert installs(copy.calls()) == []


def test_extras(copy):
    assert copy.run("install", "gguf", "gcs").returncode == 0
    assert installs(copy.calls()) == [".", ".[gguf,gcs]"]
    done = copy.run("install", "gguf", "ggml")
    assert done.returncode == 2
    assert done.stderr.startswith("launch/local.sh: install: unknown extra 'ggml', expected some of: cuda13 cuda12")
    assert copy.run("install").returncode == 2
    done = copy.run("install", "cuda13", "cuda12")
    assert (done.returncode, done.stderr) == (2, "launch/local.sh: install: cuda12 and cuda13, expected one of them\n")
    assert installs(copy.calls()) == []


def test_a_bucket_brings_its_extra(copy):
    arguments = ("train", "--config=c.py", "--workdir=gs://bucket/runs/mine")
    copy.run(*arguments)
    assert installs(copy.calls()) == [".", ".[gcs]"]
    (copy.root / ".venv" / "lib" / "python3.12" / "site-packages" / "gcsfs").mkdir(parents=True)
    assert copy.run(*arguments).returncode == 0
    assert installs(copy.calls()) == []


@pytest.mark.parametrize("what", ["requirements", "versions", "folder"])
def test_a_change_installs_again(copy, what):
    copy.run("demo")
    if what == "requirements":
        with (copy.root / "pyproject.toml").open("a") as file:
            file.write("# changed\n")
    elif what == "versions":
        with (copy.root / "launch" / "constraints" / "python3.12.txt").open("a") as file:
            file.write("another==1\n")
    else:
        copy.root = copy.root.rename(copy.root.with_name("moved"))
    copy.run("demo")
    assert copy.calls()[0].startswith("python -m pip install")


def test_a_failed_install_is_told_and_tried_again(copy):
    failed = copy.run("demo", PIP_FAILS="1")
    assert failed.returncode == 2
    assert "no such package" in failed.stderr
    assert "pip could not install ." in failed.stderr.splitlines()[-1]
    assert not any(call.startswith("tga") for call in copy.calls())
    assert copy.run("demo").returncode == 0
    assert installs(copy.calls()) == ["."]
    assert copy.calls()[-1] == "tga demo"


def test_test_runs_every_check_and_passes_arguments_to_pytest_only(copy):
    done = copy.run("test", "tests/data", "-k", "emoji scenes")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("==")] == [
        "== tests ==",
        "== lint ==",
        "== format ==",
        "== types ==",
    ]
    assert copy.calls()[2:] == [
        "python -m pytest -n 2 --dist loadfile tests/data -k emoji scenes",
        "python -m ruff check .",
        "python -m ruff format --check .",
        "python -m pyrefly check --python-interpreter-path .venv/bin/python",
    ]


@pytest.mark.parametrize(
    ("tool", "heading"),
    [("pytest", "tests"), ("ruff check", "lint"), ("ruff format", "format"), ("pyrefly check", "types")],
)
def test_one_failed_check_fails_the_command_and_is_named(copy, tool, heading):
    done = copy.run("test", BAD_TOOL=tool)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"failed: {heading}"
    assert "== types ==" in done.stdout  # the others run all the same
