"""`.bin` files written without torch, read by torch with weights_only; LLaVA's stage-1 projector file; those of
strangers, which run no code, and whose sizes are checked before memory is taken for them."""

import struct
import zipfile
from pathlib import Path

import hub_support
import ml_dtypes
import numpy as np
import pytest
import torch

import tga_jax
from tga_jax.checkpoints import hub, torch_file
from tga_jax.errors import UserError


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int64, np.bool_])
def test_what_is_written_torch_reads(dtype, tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "a.weight": (4 * rng.standard_normal((3, 5))).astype(dtype),
        "b": (4 * rng.standard_normal((2, 3, 4))).astype(dtype).transpose(2, 0, 1),
        "scalar": np.array(2).astype(dtype),
        "empty": np.zeros((0, 4), dtype),
        "ünïcode": np.ones(300, dtype),
    }
    path = tmp_path / "file.bin"
    torch_file.write(path, tensors)
    read = torch.load(path, weights_only=True)
    assert list(read) == list(tensors)
    ours = torch_file.TorchFile(path)
    for name, x in tensors.items():
        assert read[name].shape == x.shape
        np.testing.assert_array_equal(read[name].to(torch.float64).numpy(), x.astype(np.float64))
        np.testing.assert_array_equal(ours.read(name), x)
        assert ours.read(name).dtype == x.dtype


def test_the_projector_as_llava_takes_it(tmp_path):
    theirs = hub_support.model("llava")
    hub.import_hub(hub_support.save(theirs, tmp_path / "hub"), tmp_path / "ours", "float32")
    hub.export_projector(tmp_path / "ours", tmp_path / "mm_projector.bin")
    found = torch.load(tmp_path / "mm_projector.bin", weights_only=True)
    mine = theirs.model.multi_modal_projector.state_dict()
    for place, name in (("0", "linear_1"), ("2", "linear_2")):
        for kind in ("weight", "bias"):
            torch.testing.assert_close(
                found[f"model.mm_projector.{place}.{kind}"], mine[f"{name}.{kind}"], rtol=0, atol=0
            )
    assert len(found) == 4


def test_a_language_model_has_no_projector(tmp_path):
    hub.import_hub(hub_support.save(hub_support.model("llama"), tmp_path / "hub"), tmp_path / "ours", "float32")
    with pytest.raises(tga_jax.UserError, match="expected a LLaVA with a projector"):
        hub.export_projector(tmp_path / "ours", tmp_path / "mm_projector.bin")
    assert not (tmp_path / "mm_projector.bin").exists()


# ---- Files of strangers ---------------------------------------------------------------------------------------------


def value(x) -> bytes:
    """Of a pickle: a number of any size, a string, a tuple; bytes stand for themselves."""
    if isinstance(x, int) and not isinstance(x, bool):
        data = x.to_bytes(x.bit_length() // 8 + 1, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data
    if isinstance(x, str):
        return b"X" + struct.pack("<I", len(x.encode())) + x.encode()
    return x if isinstance(x, bytes) else b"(" + b"".join(map(value, x)) + b"t"


FLOATS, REBUILD, NO_HOOKS = (
    b"ctorch\nFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ccollections\nOrderedDict\n)R",
)


def tensor(offset=0, shape=(2, 3), strides=(3, 1), key="0", size=6, kind=FLOATS, pid=None) -> bytes:
    storage = value(("storage", kind, key, "cpu", size) if pid is None else pid) + b"Q"
    return REBUILD + value((storage, offset, shape, strides, b"\x89", NO_HOOKS)) + b"R"


def bin_file(path: Path, pickled: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", np.arange(6, dtype=np.float32).tobytes())
    return path


def of(pickled: bytes) -> bytes:
    return b"\x80\x02}" + value("w") + pickled + b"s."


def test_the_pickles_of_this_file_are_read(tmp_path):
    file = torch_file.TorchFile(bin_file(tmp_path / "a.bin", of(tensor())))
    np.testing.assert_array_equal(file.read("w"), [[0, 1, 2], [3, 4, 5]])


BOMB = b"\x80\x02}" + b")q\0" + b"h\0h\0\x86q\0" * 60 + value("x") + b"s."  # a key of 2^60 empty tuples


@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        # NumPy's as_strided would read, or copy, what lies behind the file's memory.
        (of(tensor(offset=1)), "does not fit its storage '0' of 6 elements"),
        (of(tensor(offset=-1)), "does not fit its storage"),
        (of(tensor(strides=(3, 2))), "does not fit its storage"),
        (of(tensor(strides=(-3, 1))), "are no sizes"),
        (of(tensor(shape=(-2, 3))), "are no sizes"),
        (of(tensor(shape=(2**40,), strides=(0,))), "does not fit its storage"),  # four terabytes of one number
        (of(tensor(shape=(7,), strides=(0,))), "does not fit its storage"),
        (of(tensor(shape=(0, 2**40, 2**40), strides=(0, 0, 0))), "does not fit its storage"),
        (of(tensor(shape=(2, 3), strides=(3,))), "does not fit its storage"),
        (of(tensor(size=2**30, shape=(2**28,), strides=(1,))), "w does not fit its storage of 24 bytes"),
        (of(tensor(size=-1)), "a storage whose key is no string, or whose size"),
        (of(tensor(key=3)), "a storage whose key is no string"),
        (of(tensor(key="9")), "storages 9 are missing"),
        (of(tensor(shape="23")), "are no sizes"),
        (of(tensor(shape=("2", "3"))), "are no sizes"),
        (of(tensor(kind=b"N")), "a storage of another kind"),
        (of(tensor(pid=("storage",))), "a persistent id that is no storage's"),
        (of(REBUILD + b")R"), "a call that makes no tensor"),
        (of(b"cbuiltins\neval\n" + value(("1",)) + b"R"), "holds builtins.eval, expected tensors only"),
        (of(REBUILD + b"N}" + value("__defaults__") + value(("x",)) + b"s\x86b"), "the state of what is no dictionary"),
        (b"\x80\x02}" + value(("x",)) + b"Ns.", "a dictionary whose keys are no strings"),
        (BOMB, "a dictionary whose keys are no strings"),
        (b"\x80\x02" + b"]" * 1000 + b".", "holds the instruction EMPTY_LIST"),
        (b"\x80\x02}" + value("w") + b"X\xff\xff\xff\xffab", "its pickle is damaged"),
        (b"\x80\x02}" + b"X\1\0\0\0\xff" + b"Ns.", "its pickle is damaged"),
        (b"\x80\x02Ns.", "its pickle is damaged"),
        (b"\x80\x02h\7.", "its pickle is damaged"),
        (b"", "its pickle is damaged"),
        (of(b"N"), "expected a dictionary of tensors"),
        (b"\x80\x02N.", "expected a dictionary of tensors"),
    ],
)
def test_a_bin_that_lies_is_refused_when_it_is_opened(tmp_path, pickled, said):
    path = bin_file(tmp_path / "a.bin", pickled)
    with pytest.raises(UserError) as raised:
        torch_file.TorchFile(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert said in str(raised.value)


def spoiled(path: Path, marker: bytes, at: int, new: bytes, last: bool = False) -> Path:
    """Bytes behind the first (or last) of a zip's marks set to others."""
    data = bytearray(path.read_bytes())
    place = (data.rindex if last else data.index)(marker) + at
    data[place : place + len(new)] = new
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("marker", "at", "new", "said"),
    [
        (b"PK\1\2", 42, b"\xf0\xff\xff\x7f", "does not lie in the file"),
        (b"PK\1\2", 42, b"\x05\0\0\0", "does not lie in the file"),
        (b"PK\1\2", 10, b"\x63\0", "is compressed or encrypted"),
        (b"PK\1\2", 8, b"\1\0", "is compressed or encrypted"),
        (b"PK\1\2", 24, b"\0\0\0\x7f", "does not lie in the file"),  # two gigabytes of data.pkl
        (b"PK\3\4", 26, b"\xff\xff", "does not lie in the file"),  # the local header's lengths
        (b"PK\3\4", 28, b"\xff\xff", "does not lie in the file"),
        (b"PK\3\4", 0, b"PK\3\5", "does not lie in the file"),
        (b"PK\5\6", 16, b"\xff\xff\xff\x7f", "does not lie in the file"),
        (b"a/data.pkl", 40, b"?", "is damaged: its checksum differs"),
    ],
)
def test_a_zip_that_lies_is_refused(tmp_path, marker, at, new, said):
    path = spoiled(bin_file(tmp_path / "a.bin", of(tensor())), marker, at, new)
    with pytest.raises(UserError, match=said):
        torch_file.TorchFile(path)


def test_members_of_another_kind_are_refused(tmp_path):
    path = bin_file(tmp_path / "packed.bin", of(tensor()) + bytes(2**16), zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match=r"a/data\.pkl (does not lie in the file|is compressed)"):
        torch_file.TorchFile(path)
    with pytest.raises(UserError, match=r"a/data\.pkl has 4194305 bytes, expected at most 4194304"):
        torch_file.TorchFile(bin_file(tmp_path / "long.bin", bytes(2**22 + 1)))
    with zipfile.ZipFile(bin_file(tmp_path / "big.bin", of(tensor())), "a") as archive:
        archive.writestr("a/byteorder", "big")
    with pytest.raises(UserError, match="byteorder is not little"):
        torch_file.TorchFile(tmp_path / "big.bin")
