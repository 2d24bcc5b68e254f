"""What is in launch/ but runs on machines that tests have not: read by the linters of its formats."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])


def program(name: str) -> str:
    """Of the environment that runs the tests: pip installs these there."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or pytest.fail(f"{name} is not installed")


def test_the_scripts_are_there():
    assert {path.name for path in SCRIPTS} >= {"local.sh", "multiprocess.sh", "tpu_pod.sh", "slurm.sbatch"}


@pytest.mark.parametrize(
    "path", [*SCRIPTS, LAUNCH.parent / "tests" / "versions.sh", LAUNCH.parent / ".ci" / "run"], ids=lambda p: p.name
)
def test_shellcheck(path):
    done = subprocess.run([program("shellcheck"), str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_hadolint():
    done = subprocess.run([program("hadolint"), str(LAUNCH / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_is_made_of_what_exists():
    """Everything copied is there and not ignored, and the extra is one of the package's."""
    text = (LAUNCH / "Dockerfile").read_text()
    copied = [source for line in re.findall(r"^COPY (.*)", text, re.M) for source in line.split()[:-1]]
    assert {"pyproject.toml", "tga_jax", "configs"} <= set(copied)
    assert all((LAUNCH.parent / source).exists() for source in copied)
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    assert {f"!{source}" for source in copied} == {line for line in ignored if line.startswith("!")}
    extras = tomllib.loads((LAUNCH.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"EXTRA=(\w+)", text)) == {"cuda12", "cuda13", "tpu"} <= set(extras)


def test_what_the_scripts_install_exists():
    extras = tomllib.loads((LAUNCH.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    texts = [path.read_text() for path in SCRIPTS]
    named = {extra for text in texts for extra in re.findall(r"(?:'\.\[|local\.sh install )(\w+)", text)}
    assert named == {"cuda13", "tpu"} <= set(extras)
    known = re.search(r'known="(.*)"', (LAUNCH / "local.sh").read_text())
    assert known is not None
    assert {*known[1].split(), "test"} == set(extras)


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_all_requirements_are_locked_within_their_ranges(version):
    lines = (LAUNCH / "constraints" / f"python{version}.txt").read_text().splitlines()
    locked = dict(line.split("==") for line in lines if not line.startswith("#"))
    project = tomllib.loads((LAUNCH.parent / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    for requirement in map(Requirement, texts):
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, requirement
