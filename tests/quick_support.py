"""Compilation in about half the time, for models so small that compiling them is nearly all that a test does.

Without XLA's fusion emitters sums have another order, so two programs that ought to agree to the last bit may not: not
for tests whose tolerance that exceeds.
"""

import contextlib
from collections.abc import Iterator
from unittest import mock

from jax._src import compiler

_FLAG = "xla_cpu_use_fusion_emitters"
ENVIRONMENT = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": f"--{_FLAG}=false"}  # of a process


@contextlib.contextmanager
def without_fusion_emitters() -> Iterator[None]:
    """In this process, for a while. XLA reads its flags once, so the flag goes with each program."""
    made = compiler.get_compile_options

    def with_flag(*args, env_options_overrides=None, **fields):
        return made(*args, env_options_overrides={**(env_options_overrides or {}), _FLAG: False}, **fields)

    with mock.patch.object(compiler, "get_compile_options", with_flag):
        yield
