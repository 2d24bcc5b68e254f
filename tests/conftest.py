"""Shared by the tests: the import of tests/models/parity_support.py from other folders, compiled programs."""

import ctypes
import gc
import sys
from pathlib import Path

import hypothesis
import jax
import pytest

sys.path.insert(0, str(Path(__file__).parent / "models"))

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("tests")


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_end_with_their_module():
    """Or a process would come to hold gigabytes of them."""
    yield
    jax.clear_caches()
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)  # glibc keeps what was freed, in an arena for each of the compiler's threads


@pytest.fixture(scope="module")
def quick_compilation():
    """For tests whose models are so small that compiling them is nearly all of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
