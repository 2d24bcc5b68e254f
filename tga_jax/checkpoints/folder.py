"""A folder of weights as named tensors that are read one at a time."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from tga_jax.checkpoints.torch_file import TorchFile
from tga_jax.errors import UserError
from tga_jax.workdir import read_json


@dataclasses.dataclass(frozen=True)
class Tensor:
    shape: tuple[int, ...]
    file: Path
    read: Callable[[], np.ndarray]


def _read_slice(path: Path, name: str) -> np.ndarray:
    # Opened anew for each tensor: what the map has touched counts as this process's memory until it is closed.
    with safe_open(path, framework="numpy") as file:
        return file.get_tensor(name)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="numpy") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error})") from error
    return {name: Tensor(shape, path, partial(_read_slice, path, name)) for name, shape in shapes.items()}


def _torch(path: Path) -> dict[str, Tensor]:
    file = TorchFile(path)
    return {name: Tensor(tensor.shape, path, partial(file.read, name)) for name, tensor in file.tensors.items()}


READERS = {".safetensors": _safetensors, ".bin": _torch}


def _sharded(index: Path) -> list[Path]:
    """The shards that an index names. Raises UserError listing those that are missing."""
    found = read_json(index, "the index of a sharded checkpoint", ("weight_map",))["weight_map"]
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise UserError(f"{index}: weight_map is {str(found)[:60]}, expected tensor names to files")
    names = sorted(set(found.values()))
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise UserError(f"{index}: shards are missing: {', '.join(missing)}")
    return [index.parent / name for name in names]


# In the order in which they are looked for, the same as transformers'.
LAYOUTS = (
    ("model.safetensors", False),
    ("model.safetensors.index.json", True),
    ("pytorch_model.bin", False),
    ("pytorch_model.bin.index.json", True),
    ("adapter_model.safetensors", False),
    ("adapter_model.bin", False),
    ("mm_projector.bin", False),
)


def tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a folder, or of one file, by the names that they have there.

    Raises UserError naming what is missing, cut short or not a weight file.
    """
    if path.is_file():
        if path.suffix not in READERS:
            raise UserError(f"{path}: expected a file that ends in {' or '.join(READERS)}")
        return READERS[path.suffix](path)
    for name, is_index in LAYOUTS:
        if (path / name).exists():
            files = _sharded(path / name) if is_index else [path / name]
            break
    else:
        raise UserError(f"{path}: no weights, expected one of {', '.join(name for name, _ in LAYOUTS)}")
    found: dict[str, Tensor] = {}
    for file in files:
        found |= READERS[file.suffix](file)
    return found
