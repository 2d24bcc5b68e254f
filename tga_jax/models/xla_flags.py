"""What XLA is told before JAX starts: its flags, when `tga_jax` is imported, and how much of a GPU a training takes."""

import importlib.metadata
import os
import re

# XLA:CPU's new library of fused operations (YNN) miscompiles in these releases of jaxlib. 0.10.2, the newest for Python
# 3.11, silently gives other numbers for batches of small products that are summed over more than 32,768 rows (jax issue
# 39103); 0.10.2 and 0.11.0 crash on sums in arrays of rank 7 or more (39257, 40412); 0.10.0 never ends the exact search
# of tga_jax.retrieval; users report wrong results of 0.11.1 and 0.11.2. No report was found of 0.12.
_FIRST_BROKEN, _FIRST_RIGHT = (0, 10, 0), (0, 12, 0)
_YNN = "--xla_cpu_experimental_ynn_fusion_type"


def is_broken(jaxlib: str) -> bool:
    """Whether this version's fusions on CPUs are."""
    release = tuple(int(number) for number in re.findall(r"\d+", jaxlib)[:3])
    return _FIRST_BROKEN <= release < _FIRST_RIGHT


def safe(flags: str, jaxlib: str) -> str:
    """The value of XLA_FLAGS to use instead of `flags` with this version of jaxlib: without YNN's fusions where they
    are broken, unless `flags` decide about them already or name a file that holds the flags."""
    if not is_broken(jaxlib) or _YNN in flags or (flags.strip() and not flags.lstrip().startswith("-")):
        return flags
    return f"{flags} {_YNN}=".lstrip()


def set_safe() -> None:
    """Sets XLA_FLAGS in this process and those it starts. XLA reads them when JAX computes for the first time."""
    before = os.environ.get("XLA_FLAGS", "")
    flags = safe(before, importlib.metadata.version("jaxlib"))
    if flags != before:
        os.environ["XLA_FLAGS"] = flags


def reserve_gpu_memory(share: float = 0.95) -> None:
    """Lets JAX take this share of each GPU's memory, unless the environment already says how much: of itself it takes
    75 %, in which 7B with float32 moments does not fit on an H200 though the card would hold it."""
    decided = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_ALLOCATOR")
    if not any(name in os.environ for name in decided):
        os.environ["XLA_CLIENT_MEM_FRACTION"] = str(share)
