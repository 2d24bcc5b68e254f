"""Text-Guided Alignment (TGA) in JAX: text safety carried over to images. `tga --help` lists the commands."""

import importlib.util
import os
from typing import TYPE_CHECKING, Any

from tga_jax.errors import UserError
from tga_jax.models import xla_flags

xla_flags.set_safe()  # here, since whatever is used of this package is imported after it
if importlib.util.find_spec("torch") is None:  # transformers would say so in every script, and nothing here needs it
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

if TYPE_CHECKING:
    from tga_jax.inference.model import Model

__version__ = "0.1.0"
__all__ = ["UserError", "__version__", "load"]


def load(folder: Any, dtype: str | None = None, mesh: Any = None, *, stacked: bool = False) -> "Model":
    """A checkpoint as one object to run, to ask and to look into: see `tga_jax.inference.model.load`."""
    from tga_jax.inference import model  # not before it is needed: importing the package leaves jax alone

    return model.load(folder, dtype, mesh, stacked=stacked)
