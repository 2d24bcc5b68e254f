"""`tga bench gate`: what is worse than a kept table is said, and nothing else."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tga_jax.bench import gate
from tga_jax.errors import UserError

TABLE = {
    "jaxlib": "0.10.2",
    "programs": {"step": {"flops": 1e9, "read": 2e9, "peak": 3e8, "sent": 0.0}},
    "compilations": {"search": 4},
}


def changed(**figures: float) -> dict:
    found = copy.deepcopy(TABLE)
    found["programs"]["step"] |= figures
    return found


def test_within_the_tolerance_nothing_differs():
    assert gate.differences(TABLE, changed(flops=1.019e9, peak=2.95e8)) == []


@pytest.mark.parametrize(("figures", "worse"), [({"read": 2.1e9}, True), ({"sent": 1.0}, True), ({"peak": 2e8}, False)])
def test_what_differs_is_worse_or_better(figures, worse):
    (found,) = gate.differences(TABLE, changed(**figures))
    assert (found.program, found.figure, found.worse) == ("step", *figures, worse)


def test_one_more_compilation_is_worse():
    (found,) = gate.differences(TABLE, {**TABLE, "compilations": {"search": 5}})
    assert found.worse


def test_tables_of_other_versions_and_programs_are_not_compared():
    with pytest.raises(UserError, match="jaxlib"):
        gate.differences(TABLE, {**TABLE, "jaxlib": "0.11"})
    with pytest.raises(UserError, match="has step, expected other"):
        gate.differences(TABLE, {**TABLE, "programs": {"other": {}}})


def test_a_program_that_does_twice_the_work_is_seen():
    import jax
    import jax.numpy as jnp

    x = jax.ShapeDtypeStruct((64, 64), jnp.float32)
    once, twice = (gate._figures(jax.jit(f).lower(x).compile()) for f in (lambda x: x @ x, lambda x: (x @ x) @ (x + 1)))
    assert twice["flops"] == pytest.approx(2 * once["flops"], rel=0.05)
    assert twice["read"] > once["read"]
    assert once["peak"] >= 2 * 64 * 64 * 4


@pytest.mark.slow
def test_nothing_is_worse_than_the_kept_table():
    root = Path(__file__).parents[2]
    code = "import sys; from tga_jax import cli; sys.exit(cli.run(sys.argv[1:]))"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
    command = [sys.executable, "-c", code, "bench", "gate", "tests/bench/gate.json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
