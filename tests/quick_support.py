"""Compilation in less than half the time, for models so small that compiling them is nearly all that a test does."""

import contextlib
from collections.abc import Iterator
from unittest import mock

import jax
from jax._src import compiler

FLAG = "xla_cpu_use_fusion_emitters"
ENVIRONMENT = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": f"--{FLAG}=false"}  # of a process


@contextlib.contextmanager
def quick() -> Iterator[None]:
    """The same in this process for a while. XLA reads its flags once, so the flag goes with each program."""
    made = compiler.get_compile_options

    def with_flag(*args, env_options_overrides=None, **fields):
        return made(*args, env_options_overrides={**(env_options_overrides or {}), FLAG: False}, **fields)

    with mock.patch.object(compiler, "get_compile_options", with_flag):
        jax.config.update("jax_disable_most_optimizations", True)
        yield
        jax.config.update("jax_disable_most_optimizations", False)
