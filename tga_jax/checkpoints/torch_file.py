"""`.bin` files without torch: tensors out, without running what a pickle may hold, and in.

The file is torch's zip: `<name>/data.pkl` describes the tensors, `<name>/data/<key>` holds their bytes. Of the pickle
only what a plain dictionary of tensors needs is understood, and no object is ever made by name; anything else is
refused. All that the file says of places and sizes is checked when it is opened.
"""

import math
import mmap
import pickletools
import struct
import sys
import zipfile
import zlib
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
_PICKLE = 2**22  # bytes of data.pkl: room for 15,000 tensors
_NUMBERS, _AXES = 2**48, 16  # of a tensor
_LOCAL = struct.Struct("<4s22xHH")  # of a member's own header: its mark, and the lengths of its name and extra field


class StoredTensor(NamedTuple):
    """Where a tensor lies in a file: in storage `key` of `size` elements, seen through shape and strides."""

    dtype: np.dtype
    key: str
    size: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Global(NamedTuple):
    """A name in a pickle, which stands for nothing that runs."""

    module: str
    name: str


class _Storage(NamedTuple):
    dtype: np.dtype
    key: str
    size: int


class _Bad(ValueError):
    """What a pickle holds and a dictionary of tensors does not."""


_ORDERED, _TENSOR, _PARAMETER = (
    _Global("collections", "OrderedDict"),
    _Global("torch._utils", "_rebuild_tensor_v2"),
    _Global("torch._utils", "_rebuild_parameter"),
)
_KNOWN = {_ORDERED, _TENSOR, _PARAMETER, *(_Global("torch", name) for name in _STORAGES)}


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < _NUMBERS


def _storage(pid: Any) -> _Storage:
    if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage":
        raise _Bad("a persistent id that is no storage's")
    _, kind, key, _, size = pid
    if type(kind) is not _Global or kind.name not in _STORAGES:
        raise _Bad(f"a storage of another kind than {', '.join(_STORAGES)}")
    if type(key) is not str or not _is_size(size):
        raise _Bad("a storage whose key is no string, or whose size is no number of elements")
    return _Storage(np.dtype(_STORAGES[kind.name]), key, size)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    """Raises _Bad for a view that does not lie inside its storage, or shows an element of it more than once."""
    if type(storage) is not _Storage:
        raise _Bad("a tensor without a storage")
    for numbers in (shape, strides):
        if type(numbers) is not tuple or len(numbers) > _AXES or not all(map(_is_size, numbers)):
            raise _Bad(f"a tensor of storage {storage.key!r} whose shape or strides are no sizes")
    inside = len(shape) == len(strides) and _is_size(offset) and math.prod(n or 1 for n in shape) < _NUMBERS
    if inside and 0 not in shape:
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        inside = last < storage.size and math.prod(shape) <= storage.size
    if not inside:
        raise _Bad(f"a tensor that does not fit its storage {storage.key!r} of {storage.size} elements")
    return StoredTensor(*storage, offset, shape, strides)


def _called(function: Any, arguments: Any) -> Any:
    if type(arguments) is tuple and function == _ORDERED and not arguments:
        return {}
    if type(arguments) is tuple and function == _TENSOR and len(arguments) >= 4:
        return _tensor(*arguments)
    if type(arguments) is tuple and function == _PARAMETER and arguments and type(arguments[0]) is StoredTensor:
        return arguments[0]
    raise _Bad("a call that makes no tensor")


def _put(target: Any, pairs: list[Any]) -> None:
    if type(target) is not dict or len(pairs) % 2 or not all(type(key) is str for key in pairs[::2]):
        raise _Bad("a dictionary whose keys are no strings")
    target.update(zip(pairs[::2], pairs[1::2], strict=True))


_MARK = object()
_VALUES = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def _unpickled(data: bytes) -> Any:
    """The value of a pickle (protocols 2 to 5) as torch writes it of a dictionary of tensors; `pickle.Unpickler` would
    make whatever a file names. Raises _Bad, and ValueError, IndexError or KeyError for what is damaged."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def pop(count: int) -> list[Any]:
        if len(stack) < count:
            raise IndexError("of an empty stack")
        found = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return found

    def marked() -> list[Any]:
        found = []
        while (value := stack.pop()) is not _MARK:
            found.append(value)
        return found[::-1]

    for opcode, given, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                stack.append(_MARK)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append(_VALUES[opcode.name])
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINUNICODE":
                stack.append(given)
            case "BINPUT" | "LONG_BINPUT":
                memo[given] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[given])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(pop(_SHORT_TUPLES[opcode.name])))
            case "GLOBAL" | "STACK_GLOBAL":
                found = _Global(*(str(given).split(" ", 1) if opcode.name == "GLOBAL" else map(str, pop(2))))
                if found not in _KNOWN:
                    raise _Bad(f"holds {found.module:.100}.{found.name:.100}")
                stack.append(found)
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                stack.append(_called(*pop(2)))
            case "BUILD":  # attributes, such as torch's _metadata
                state = stack.pop()
                if type(state) is not dict or type(stack[-1]) is not dict:
                    raise _Bad("the state of what is no dictionary")
            case "SETITEM" | "SETITEMS":
                pairs = pop(2) if opcode.name == "SETITEM" else marked()
                _put(stack[-1], pairs)
            case _:
                raise _Bad(f"holds the instruction {opcode.name}")
    raise ValueError("ends early")


class TorchFile:
    """The tensors of a `.bin` file by name; bytes are read when asked for.

    Raises UserError naming the file if it is no such zip, is cut short, or holds anything but tensors.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                entries = {info.filename: info for info in archive.infolist()}
        except Exception as error:  # of many types: what a damaged index says is used unchecked
            raise UserError(f"{path}: not a torch file of version 1.6 or later, or cut short") from error
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise UserError(f"{path}: not a torch file of version 1.6 or later, or cut short")
        root = roots[0]
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            order = f"{root}byteorder"
            if order in entries and self._bytes(view, entries[order], 16) != b"little":
                raise UserError(f"{path}: {order} is not little, expected a file of a little-endian machine")
            data = self._bytes(view, entries[f"{root}data.pkl"], _PICKLE)
            try:
                found = _unpickled(data)
            except _Bad as error:
                raise UserError(f"{path}: refused, {error}, expected tensors only") from error
            except (ValueError, LookupError, ArithmeticError, TypeError) as error:
                raise UserError(f"{path}: refused, its pickle is damaged ({error})") from error
            if type(found) is not dict or not all(type(tensor) is StoredTensor for tensor in found.values()):
                raise UserError(f"{path}: refused, expected a dictionary of tensors")
            keys = {tensor.key for tensor in found.values()}
            if missing := sorted(key for key in keys if f"{root}data/{key}" not in entries):
                raise UserError(f"{path}: storages {', '.join(missing)} are missing")
            self._starts = {key: self._place(view, entries[f"{root}data/{key}"]) for key in keys}
        self.tensors: dict[str, StoredTensor] = found
        for name, tensor in found.items():
            size = entries[f"{root}data/{tensor.key}"].file_size
            if tensor.size * tensor.dtype.itemsize > size:
                raise UserError(f"{path}: {name} does not fit its storage of {size} bytes")

    def _place(self, view: mmap.mmap, entry: zipfile.ZipInfo) -> int:
        """Where a member's bytes begin, which lie in the file as they are. Raises UserError for others."""
        # The local header repeats the name and has an extra field of its own, which aligns the data.
        at, name = entry.header_offset, entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437")
        mark, name_length, extra_length = _LOCAL.unpack_from(view, at) if 0 <= at <= len(view) - 30 else (b"", 0, 0)
        start = at + _LOCAL.size + name_length + extra_length
        whole = mark == b"PK\3\4" and view[at + 30 : at + 30 + name_length] == name
        if not whole or entry.file_size != entry.compress_size or not 0 <= entry.file_size <= len(view) - start:
            raise UserError(f"{self.path}: {entry.filename} does not lie in the file, expected {entry.file_size} bytes")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
            raise UserError(f"{self.path}: {entry.filename} is compressed or encrypted, expected plain bytes")
        return start

    def _bytes(self, view: mmap.mmap, entry: zipfile.ZipInfo, most: int) -> bytes:
        """Of a small member. Raises UserError if it is larger, or damaged."""
        start = self._place(view, entry)
        if entry.file_size > most:
            raise UserError(f"{self.path}: {entry.filename} has {entry.file_size} bytes, expected at most {most}")
        data = view[start : start + entry.file_size]
        if zlib.crc32(data) != entry.CRC:
            raise UserError(f"{self.path}: {entry.filename} is damaged: its checksum differs")
        return data

    def read(self, name: str) -> np.ndarray:
        """A copy of the tensor. Raises UserError if the file has become shorter."""
        tensor = self.tensors[name]
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, tensor.dtype)
        size = tensor.dtype.itemsize
        strides = tuple(stride * size for stride in tensor.strides)
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            start = self._starts[tensor.key] + tensor.offset * size
            try:
                return np.ndarray(tensor.shape, tensor.dtype, view, start, strides).copy()
            except (TypeError, ValueError) as error:
                raise UserError(f"{self.path}: {name} is cut off") from error


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
