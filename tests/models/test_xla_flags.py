"""XLA's flags, each in a process of its own, as XLA reads them once."""

import importlib.metadata
import os
import platform
import subprocess
import sys

import pytest

from tga_jax.models import xla_flags

EMPTY = "--xla_cpu_experimental_ynn_fusion_type="
JAXLIB = importlib.metadata.version("jaxlib")

# https://github.com/jax-ml/jax/issues/39103: |I x|^2 of the rows x = (i, 0, 0); the last one's is 32,768^2.
PRODUCTS = """
i = jnp.arange(32_769, dtype=jnp.float32)
rows = jnp.stack((i, 0 * i, 0 * i), axis=1)
squares = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(rows)
print(float(squares[-1]))
"""
# https://github.com/jax-ml/jax/issues/39257: sums of six ones.
RANK_8 = """
sums = jax.jit(lambda a, b: jnp.log(jnp.sum(a[..., None, None, None, None, None] * b, axis=2)))
found = jnp.exp(sums(jnp.ones((10, 4, 6)), jnp.ones((10, 4, 6, 9, 9, 9, 9, 9))))
print(float(found.min()), float(found.max()))
"""


def printed(program: str, *modules: str, flags: str | None = None) -> str:
    """What the program prints after the imports of `jax` and of `modules`."""
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")}
    environment |= {"JAX_PLATFORMS": "cpu"} | ({} if flags is None else {"XLA_FLAGS": flags})
    source = "\n".join(f"import {name}" for name in ("jax", "jax.numpy as jnp", *modules))
    done = subprocess.run([sys.executable, "-c", source + program], capture_output=True, text=True, env=environment)
    return done.stdout.strip() or f"exit status {done.returncode}"


@pytest.mark.parametrize(("program", "right"), [(PRODUCTS, "1073741824.0"), (RANK_8, "6.0 6.0")])
def test_cpu_programs_that_a_jaxlib_gets_wrong_are_right_here(program, right):
    assert printed(program, "tga_jax") == right


@pytest.mark.skipif(JAXLIB != "0.10.2" or platform.machine() != "x86_64", reason="seen in jaxlib 0.10.2 on x86-64")
def test_the_flag_is_still_needed():
    """Without the package, or where a user's own flag says otherwise, the same program gives another number."""
    assert printed(PRODUCTS) != "1073741824.0"
    assert printed(PRODUCTS, "tga_jax", flags=f"{EMPTY}reduce,dot") != "1073741824.0"


@pytest.mark.parametrize(
    ("flags", "jaxlib", "expected"),
    [
        ("", "0.10.2", EMPTY),
        ("", "0.11.2", EMPTY),
        ("", "0.10.0", EMPTY),
        ("", "0.9.2", ""),
        ("", "0.12.0.1", ""),
        ("--xla_dump_to=/tmp/x", "0.10.2", f"--xla_dump_to=/tmp/x {EMPTY}"),
        (f"{EMPTY}-reduce --xla_dump_to=/tmp/x", "0.10.2", f"{EMPTY}-reduce --xla_dump_to=/tmp/x"),
        ("flags.txt", "0.10.2", "flags.txt"),  # XLA takes it for a file
    ],
)
def test_a_users_flags_stay(flags, jaxlib, expected):
    assert xla_flags.safe(flags, jaxlib) == expected


@pytest.mark.parametrize(
    ("before", "after"),
    [({}, "0.95"), ({"XLA_CLIENT_MEM_FRACTION": ".5"}, ".5"), ({"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}, None)],
)
def test_a_share_of_the_gpu_that_the_user_chose_stays(monkeypatch, before, after):
    """jaxlib refuses both names at once."""
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_ALLOCATOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", {**os.environ, **before})
    xla_flags.reserve_gpu_memory()
    assert os.environ.get("XLA_CLIENT_MEM_FRACTION") == after
