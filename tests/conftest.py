"""Shared by the tests: the import of tests/models/parity_support.py from other folders, and quick compilation."""

import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parent / "models"))


@pytest.fixture(scope="module")
def quick_compilation():
    """For tests whose models are so small that compiling them is nearly all of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
