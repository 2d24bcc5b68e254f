"""Joining `jax.distributed`: what the environment may say, and what a start that fails says. tests/launch/ joins two
processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from tga_jax.errors import UserError
from tga_jax.train import distributed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def variables(monkeypatch):
    """Sets those of the address, the count and the process that are given, and unsets the others."""

    def put(*values: str | None) -> None:
        for name, value in zip(distributed.VARIABLES, values, strict=True):
            monkeypatch.setenv(name, value) if value is not None else monkeypatch.delenv(name, raising=False)

    put(None, None, None)
    monkeypatch.delenv("JAX_COORDINATOR_BIND_ADDRESS", raising=False)
    return put


def test_a_process_alone_is_left_as_it_is(variables):
    distributed.initialize()
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("a:1", "2", None), "JAX_PROCESS_ID: not set, expected beside JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES"),
        ((None, "2", "0"), "JAX_COORDINATOR_ADDRESS: not set"),
        (("a", "2", "0"), "JAX_COORDINATOR_ADDRESS: 'a', expected HOST:PORT"),
        (("a:1", "2", "2"), "JAX_PROCESS_ID '2' of JAX_NUM_PROCESSES '2'"),
        (("a:1", "two", "0"), "JAX_PROCESS_ID '0' of JAX_NUM_PROCESSES 'two'"),
        (("a:1", "2", "-1"), "JAX_PROCESS_ID '-1'"),
    ],
)
def test_variables_that_cannot_be(variables, values, said):
    variables(*values)
    with pytest.raises(UserError, match=f"^{said}"):
        distributed.initialize()
    assert not jax.distributed.is_initialized()


def python(code: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "SLURM_", "OMPI_"))}
    full = clean | {"JAX_PLATFORMS": "cpu"} | env
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=full, cwd=ROOT, capture_output=True, text=True, timeout=600)


def test_train_asked_for_others_where_there_are_none(tmp_path):
    flags = ["--config=configs/own_data.py", f"--workdir={tmp_path}/new", "--distributed"]
    done = python("from tga_jax import cli; cli.main()", "train", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("tga train: jax.distributed.initialize: coordinator_address should be defined.")
    assert "JAX_NUM_PROCESSES" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("process", ["0", "1"])
def test_the_others_do_not_come(process):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"  # free, once the server is closed
    code = """
import os
from tga_jax.train import distributed
try:
    distributed.initialize(timeout=1)
except distributed.UserError as error:
    print(error, flush=True)
os._exit(0)
"""
    done = python(code, **dict(zip(distributed.VARIABLES, (address, "2", process), strict=True)))
    where = f"JAX_COORDINATOR_ADDRESS={address}, JAX_NUM_PROCESSES=2, JAX_PROCESS_ID={process}"
    assert done.stdout == f"not all processes have joined within 1 s ({where}); see what the others say\n"
    assert done.returncode == 0


@pytest.mark.parametrize("bind", [None, "127.0.0.1"])
def test_a_port_that_is_taken(variables, monkeypatch, bind):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        variables(f"localhost:{port}", "2", "0")
        if bind:
            monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", f"{bind}:{port}")
        with pytest.raises(UserError, match=rf"^process 0 cannot listen at .*:{port} .*in use"):
            distributed.initialize()


def test_an_address_of_another_machine(variables, monkeypatch):
    variables("192.0.2.1:29871", "2", "0")
    monkeypatch.setenv("JAX_COORDINATOR_BIND_ADDRESS", "192.0.2.1:29871")  # of documentations, nobody's
    with pytest.raises(UserError, match=r"^process 0 cannot listen at 192.0.2.1:29871"):
        distributed.initialize()
