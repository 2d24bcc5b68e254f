"""Neither a test nor a process that it starts can reach another machine."""

import socket
import subprocess
import sys

import pytest

CODE = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"


def test_other_machines_are_refused_and_this_one_is_not():
    for host in ("example.org", "192.0.2.1", "2001:db8::1"):
        with pytest.raises(ConnectionRefusedError, match="tests reach no other machine"):
            socket.create_connection((host, 80), timeout=5)
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        pass


def test_so_it_is_in_processes_that_tests_start():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert "tests reach no other machine" in done.stderr


def test_importing_the_project_asks_no_machine():
    names = ("cli", "train.loop", "evals.evaluate", "retrieval.attach", "demo.main", "serve.page", "bench.doctor")
    code = f"import sys; {'; '.join(f'import tga_jax.{name}' for name in names)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-800:]
    assert "tests reach no other machine" not in done.stderr
