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


_LONGEST = 500  # characters of a tensor's name
_SAFETENSORS = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")


def leads_out(folder: Path, path: Path) -> bool:
    """Whether a file of a folder lies elsewhere, by its name or by links; but the hub's cache, and what was downloaded
    from it, keeps all files as links into `models--org--name/blobs`."""
    real = path.resolve()
    blob = real.parent.name == "blobs" and real.parent.parent.name.startswith("models--")
    return not blob and not real.is_relative_to(folder.resolve())


def _read_slice(path: Path, name: str) -> np.ndarray:
    # Opened anew for each tensor: what the map has touched counts as this process's memory until it is closed.
    try:
        with safe_open(path, framework="numpy") as file:
            return file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: {name} cannot be read ({error})") from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    """The library checks that the tensors lie in the file, one behind the other."""
    found = {}
    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                if part.get_dtype() not in _SAFETENSORS:
                    raise UserError(f"{path}: {name} is of {part.get_dtype()}, expected {', '.join(_SAFETENSORS)}")
                found[name] = Tensor(tuple(part.get_shape()), path, partial(_read_slice, path, name))
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a whole safetensors file ({error})") from error
    return found


def _torch(path: Path) -> dict[str, Tensor]:
    file = TorchFile(path)
    return {name: Tensor(tensor.shape, path, partial(file.read, name)) for name, tensor in file.tensors.items()}


READERS = {".safetensors": _safetensors, ".bin": _torch}


def shards(index: Path) -> list[str]:
    """The files that an index names, which need not be there. Raises UserError for names that lead out of its folder,
    or are of another kind of file."""
    found = read_json(index, "the index of a sharded checkpoint", ("weight_map",))["weight_map"]
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise UserError(f"{index}: weight_map is {str(found)[:60]}, expected tensor names to files")
    names, suffix = sorted(set(found.values())), Path(index.name.removesuffix(".index.json")).suffix
    for name in names:
        if name != Path(name).name or not name.endswith(suffix) or not name.isprintable():
            raise UserError(f"{index}: weight_map names {name!r:.80}, expected files {suffix} of its folder")
    return names


def _sharded(index: Path) -> list[Path]:
    """Raises UserError listing the shards that are missing."""
    files = [index.parent / name for name in shards(index)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(f"{index}: shards are missing: {', '.join(missing)}")
    if out := [file.name for file in files if leads_out(index.parent, file)]:
        raise UserError(f"{index}: {out[0]} is a link out of the folder, expected a file in it")
    return files


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
        return _read([path])
    for name, is_index in LAYOUTS:
        if (path / name).exists():
            files = _sharded(path / name) if is_index else [path / name]
            break
    else:
        raise UserError(f"{path}: no weights, expected one of {', '.join(name for name, _ in LAYOUTS)}")
    return _read(files)


def _read(files: list[Path]) -> dict[str, Tensor]:
    """Raises UserError for a tensor whose name nobody would give it."""
    found: dict[str, Tensor] = {}
    for file in files:
        own = READERS[file.suffix](file)
        if odd := [name for name in own if len(name) > _LONGEST or not name.isprintable()]:
            raise UserError(f"{file}: holds a tensor called {odd[0]!r:.60}, expected up to {_LONGEST} printable signs")
        found |= own
    return found
