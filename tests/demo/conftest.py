"""The world that the tests of the demo share."""

import pytest
from demo_support import bars, build

from tga_jax.demo import main as demo
from tga_jax.demo.config import World


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """Scenes and tokenizer, built once."""
    return demo.open_world(build(), tmp_path_factory.mktemp("demo") / "parts", bars())
