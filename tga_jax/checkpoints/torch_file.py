"""`.bin` files without torch: tensors out, without running what a pickle may hold, and in.

The file is torch's zip: `<name>/data.pkl` describes the tensors, `<name>/data/<key>` holds their bytes. Only the few
names that a plain dictionary of tensors needs are known to the unpickler; anything else is refused.
"""

import collections
import mmap
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tga_jax.errors import UserError

_STORAGES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


class _Storage(NamedTuple):
    dtype: Any
    key: str
    size: int


class StoredTensor(NamedTuple):
    """Where a tensor lies in a file: `size` elements of storage `key`, seen through shape and strides."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    return StoredTensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in _STORAGES:
            return name
        raise pickle.UnpicklingError(f"holds {module}.{name}, expected tensors only")

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, size = pid
        return _Storage(_STORAGES[kind], key, size)


class TorchFile:
    """The tensors of a `.bin` file by name; bytes are read when asked for.

    Raises UserError naming the file if it is no such zip, is cut short, or holds anything but tensors.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
                root = next(n for n in names if n.endswith("/data.pkl")).removesuffix("data.pkl")
                with archive.open(f"{root}data.pkl") as file:
                    found = _Unpickler(file).load()
                self._entries = {
                    info.filename.removeprefix(f"{root}data/"): info
                    for info in archive.infolist()
                    if info.filename.startswith(f"{root}data/")
                }
        except (zipfile.BadZipFile, StopIteration) as error:
            raise UserError(f"{path}: not a torch file of version 1.6 or later, or cut short") from error
        except (pickle.UnpicklingError, KeyError, ValueError, TypeError, EOFError, AttributeError) as error:
            raise UserError(f"{path}: refused, {error}") from error
        if not isinstance(found, dict) or not all(isinstance(t, StoredTensor) for t in found.values()):
            raise UserError(f"{path}: refused, expected a dictionary of tensors")
        self.tensors: dict[str, StoredTensor] = dict(found)
        missing = {t.storage.key for t in self.tensors.values()} - self._entries.keys()
        if missing:
            raise UserError(f"{path}: storages {', '.join(sorted(missing))} are missing")

    def read(self, name: str) -> np.ndarray:
        """A copy of the tensor. Raises UserError if its bytes are compressed or do not reach as far as it says."""
        tensor = self.tensors[name]
        entry = self._entries[tensor.storage.key]
        dtype = np.dtype(tensor.storage.dtype)
        last = tensor.offset + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
        empty = 0 in tensor.shape
        if entry.compress_type != zipfile.ZIP_STORED or (not empty and (last + 1) * dtype.itemsize > entry.file_size):
            raise UserError(f"{self.path}: {name} does not fit its storage of {entry.file_size} bytes")
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            # The local header repeats the name and has an extra field of its own, which aligns the data.
            name_length, extra_length = struct.unpack_from("<HH", view, entry.header_offset + 26)
            start = entry.header_offset + 30 + name_length + extra_length
            count = entry.file_size // dtype.itemsize
            flat = np.frombuffer(view, dtype, count, start)
            strides = tuple(s * dtype.itemsize for s in tensor.strides)
            values = np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides).copy()
            del flat
        return values


def _pickled(tensors: dict[str, np.ndarray], storages: dict[Any, str]) -> bytes:
    """A dictionary of tensors as a pickle (protocol 2), by opcode: the names in it are torch's, which is not here."""

    def text(value: str) -> bytes:
        data = value.encode()
        return b"X" + struct.pack("<I", len(data)) + data

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(b"\x8a\x08" + struct.pack("<q", v) for v in values) + b"t"

    out = [b"\x80\x02}("]
    for key, (name, x) in enumerate(tensors.items()):
        strides = tuple(s // x.itemsize for s in x.strides)
        storage = b"(" + text("storage") + f"ctorch\n{storages[x.dtype]}\n".encode() + text(str(key)) + text("cpu")
        storage += numbers((x.size,))[1:-1] + b"tQ"
        hooks = b"ccollections\nOrderedDict\n)R"
        out += [text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(", storage, numbers((0,))[1:-1]]
        out += [numbers(x.shape), numbers(strides), b"\x89", hooks, b"tR"]
    return b"".join([*out, b"u."])


def write(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """A file that `torch.load(path, weights_only=True)` reads. Raises KeyError for a dtype that torch lacks."""
    storages = {np.dtype(dtype): name for name, dtype in _STORAGES.items()}
    tensors = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        root = path.stem
        archive.writestr(f"{root}/data.pkl", _pickled(tensors, storages))
        archive.writestr(f"{root}/byteorder", sys.byteorder)
        for key, x in enumerate(tensors.values()):
            archive.writestr(f"{root}/data/{key}", x.tobytes())
        archive.writestr(f"{root}/version", "3\n")
