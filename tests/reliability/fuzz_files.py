"""Targets of `fuzz.py`: weights, their folders, and pictures."""

import functools
import io
import json
import random
import shutil
import struct
import tarfile
import tempfile
import unittest.mock
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf_support
import numpy as np
import twins
from fuzz import Target, mutated_json
from PIL import Image

from tga_jax.checkpoints import gguf, hub_config, image_config, lora, spec, torch_file
from tga_jax.checkpoints.folder import Tensor, tensors
from tga_jax.data import images, media, processor
from tga_jax.data.tokens import Vocabulary

CLIP, LLAVA, NEXT = "openai/clip-vit-large-patch14-336", "llava-hf/llava-1.5-7b-hf", "llava-hf/llava-v1.6-mistral-7b-hf"
ORIGINAL, QWEN = "liuhaotian/llava-v1.5-7b", "Qwen/Qwen2.5-0.5B-Instruct"


@functools.cache
def twin(name: str) -> Path:
    """Written once a process; its files are read alone."""
    return twins.write(name, Path(tempfile.mkdtemp(prefix="twin")))[0]


def loaded(found: dict[str, Tensor]) -> None:
    for tensor in found.values():
        assert tensor.read().shape == tensor.shape


# ---- Weights -------------------------------------------------------------------------------------------------------


def _torch_seeds(folder: Path) -> list[bytes]:
    small = {"a": np.arange(6.0).reshape(2, 3), "b.weight": np.ones(4, np.float16)}
    torch_file.write(folder / "ours.bin", small)
    twins.write_bin(folder / "theirs.bin", {**small, "a": np.ones((2, 3), np.float32).T})
    return [(folder / name).read_bytes() for name in ("ours.bin", "theirs.bin")]


def _mutated_member(data: bytes, rng: random.Random) -> bytes:
    """Bytes of one member of a zip changed, and the zip whole again, with its checksums."""
    made = io.BytesIO()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
            names = old.namelist()
            victim = next((n for n in names if n.endswith("data.pkl")), names[0]) if rng.random() < 0.9 else names[-1]
            for name in names:
                content = bytearray(old.read(name))
                for _ in range(rng.choice((1, 1, 2, 4)) if name == victim and content else 0):
                    at = rng.randrange(len(content))
                    way = rng.random()
                    if way < 0.5:
                        content[at] = rng.randrange(256)
                    elif way < 0.7:
                        content[at:at] = rng.choice(
                            (b"2", b"]", b"}", b"(", b"t", b"Q", b"R", b"\x8a\x08" + b"\xff" * 8)
                        )
                    elif way < 0.85:
                        content[at:at] = content[rng.randrange(len(content)) :][:40]
                    else:
                        del content[at : at + rng.randrange(1, 9)]
                new.writestr(name, bytes(content))
    except Exception:
        return data
    return made.getvalue()


def _weights(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        (folder / name).write_bytes(data)
        loaded(tensors(folder / name))

    return read


def _safetensors_seeds(folder: Path) -> list[bytes]:
    twins.write_safetensors(folder, {"a": np.ones((2, 3), np.float32), "b": np.zeros(4, np.float16)})
    return [(folder / "model.safetensors").read_bytes()]


def _mutated_header(data: bytes, rng: random.Random) -> bytes:
    """A field of the header of safetensors, with the header's length as it is then."""
    if len(data) < 8 or (size := struct.unpack("<Q", data[:8])[0]) > len(data):
        return data
    header = mutated_json(data[8 : 8 + size], rng)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def _index_seeds(folder: Path) -> list[bytes]:
    del folder
    return [
        json.dumps(
            {"metadata": {"total_size": 12}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
        ).encode()
    ]


def _index(data: bytes, folder: Path) -> None:
    for name in ("one", "two"):
        if not (folder / f"{name}.safetensors").exists():
            twins.write_safetensors(folder, {name: np.ones(3, np.float32)})
            (folder / "model.safetensors").rename(folder / f"{name}.safetensors")
    (folder / "model.safetensors.index.json").write_bytes(data)
    found = tensors(folder)
    assert all(tensor.file.parent == folder for tensor in found.values())
    loaded(found)


def _gguf_seeds(folder: Path) -> list[bytes]:
    fields = {
        "bytes": gguf_support.ABC | gguf_support.IDS | {"chat_template": gguf_support.TEMPLATE},
        "pieces": gguf_support.PIECES | {"ggml.add_bos_token": True},
    }
    return [gguf_support.write(folder / f"{name}.gguf", own).read_bytes() for name, own in fields.items()]


def _mutated_gguf(data: bytes, rng: random.Random) -> bytes:
    """Numbers of the header set to others: lengths, counts, kinds, values."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(min(len(content), 2200))
        kind = rng.choice("BIQf")
        value = (
            rng.choice((0, 1, 2, 8, 9, 255)) if kind == "B" else rng.choice((0, 1, 3, 9, 2**16, 2**31 - 1, 2**32 - 1))
        )
        if kind == "Q":
            value = rng.choice((value, 2**40, 2**63, 2**64 - 1))
        packed = struct.pack(f"<{kind}", float(value) if kind == "f" else value)
        content[at : at + len(packed)] = packed
    return bytes(content)


def _gguf(data: bytes, folder: Path) -> None:
    (path := folder / "a.gguf").write_bytes(data)
    _, found = gguf.open_file(path)
    loaded(found)
    Vocabulary(gguf.tokenizer(path)).encode("ab a")


def _adapter_seeds(folder: Path) -> list[bytes]:
    del folder
    plain = {"r": 2, "lora_alpha": 4, "peft_type": "LORA", "bias": "none", "task_type": "CAUSAL_LM", "use_rslora": True}
    more = {"target_modules": ["q_proj"], "lora_dropout": 0.05, "init_lora_weights": True, "modules_to_save": None}
    return [json.dumps(plain).encode(), json.dumps(plain | more).encode()]


def _adapter(data: bytes, folder: Path) -> None:
    name = "model.layers.0.self_attn.q_proj"
    if not (folder / "adapter_model.safetensors").exists():
        pair = {f"base_model.model.{name}.lora_{x}.weight": np.ones((2, 2), np.float32) for x in "AB"}
        twins.write_safetensors(folder, pair)
        (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_bytes(data)
    weight = Tensor((2, 2), folder, lambda: np.ones((2, 2), np.float32))
    loaded(lora.merged(folder, {f"{name}.weight": weight}))


# ---- Configs and tokenizers ----------------------------------------------------------------------------------------


def _of_twins(file: str, names: tuple[str, ...]) -> Callable[[Path], list[bytes]]:
    return lambda folder: [(twin(name) / file).read_bytes() for name in names]


def _config(data: bytes, folder: Path) -> None:
    (folder / "config.json").write_bytes(data)
    clip = _spec_of(CLIP).clip
    assert clip is not None
    found = hub_config.read(folder, clip.vision)  # the tower that an original LLaVA names
    spec.check(found, "again")
    if found.llm is not None:
        assert len(found.llm.windowed) == found.llm.num_layers <= 1000


def _preprocessor(*names: str) -> Target:
    def read(data: bytes, folder: Path) -> None:
        (folder / "preprocessor_config.json").write_bytes(data)
        for name in names:
            image_config.read(folder, _spec_of(name))

    return Target(_of_twins("preprocessor_config.json", names), read, mutated_json)


@functools.cache
def _spec_of(name: str) -> spec.Spec:
    return hub_config.read(twin(name))


def _model_json_seeds(folder: Path) -> list[bytes]:
    made = []
    for name in (LLAVA, NEXT, CLIP, QWEN):
        spec.write(folder, _spec_of(name))
        made.append((folder / spec.FILE).read_bytes())
    return made


def _model_json(data: bytes, folder: Path) -> None:
    (folder / spec.FILE).write_bytes(data)
    spec.check(spec.read(folder), "again")


def _tokenizer(file: str, name: str) -> Target:
    """One file of a twin's tokenizer changed, the others as they are."""

    def read(data: bytes, folder: Path) -> None:
        for path in twin(name).glob("*token*"):
            if not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)
        (folder / file).write_bytes(data)
        found = Vocabulary(processor.load_tokenizer(folder))
        found.encode("USER: What is in the picture? ünïcödé 日本 12")

    return Target(_of_twins(file, (name,)), read, mutated_json)


# ---- Pictures and stores -------------------------------------------------------------------------------------------


def _picture_seeds(kind: str, **how: Any) -> Callable[[Path], list[bytes]]:
    def seeds(folder: Path) -> list[bytes]:
        del folder
        rng, made = np.random.default_rng(0), []
        for mode in ("RGB", "L", "P") if kind in ("png", "gif", "tiff", "bmp") else ("RGB", "L"):
            picture = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).convert(mode)
            picture.save(file := io.BytesIO(), kind, **how)
            made.append(file.getvalue())
        if kind in ("png", "tiff"):  # deep greys
            deep = rng.integers(0, 2**16, (5, 6)).astype(np.uint16)
            Image.fromarray(deep).save(file := io.BytesIO(), kind)
            made.append(file.getvalue())
        if kind in ("gif", "webp", "png"):  # of several frames
            frames = [Image.new("RGB", (8, 6), (i, 9, 9)) for i in range(3)]
            frames[0].save(file := io.BytesIO(), kind, save_all=True, append_images=frames[1:])
            made.append(file.getvalue())
        return made

    return seeds


@unittest.mock.patch.object(images, "MAX_PIXELS", 2_000_000)  # or a tenth of the pictures would take a second each
def _picture(data: bytes, folder: Path) -> None:
    del folder
    size = images.size(data, "p")
    picture = images.decode(data, "p")
    assert picture.mode == "RGB"
    assert (picture.height, picture.width) == size
    for mode in images.MODES:
        images.preprocess(picture, 14, mode, fast=mode == "pad")


def _mutated_picture(data: bytes, rng: random.Random) -> bytes:
    """Numbers of the header, where sizes stand; or the file cut short."""
    content = bytearray(data)
    if len(content) < 8 or rng.random() < 0.1:
        return bytes(content[: rng.randrange(len(content) + 1)])
    for _ in range(rng.choice((1, 1, 2))):
        value = rng.choice((0, 1, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 10_000, 131_073))
        packed = struct.pack(rng.choice("<>") + "I", value)[: rng.choice((2, 4))]
        at = rng.randrange(min(len(content), 200))
        content[at : at + len(packed)] = packed
    return bytes(content)


def _zip_seeds(folder: Path) -> list[bytes]:
    del folder
    made = []
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        with zipfile.ZipFile(file := io.BytesIO(), "w", method) as archive:
            archive.writestr("a.png", b"one" * 50)
            archive.writestr("b/é.jpg", b"two")
        made.append(file.getvalue())
    return made


def _tar_seeds(folder: Path) -> list[bytes]:
    del folder
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(fileobj=(file := io.BytesIO()), mode="w", format=form) as archive:
            for name in ("a.png", "b/é.jpg", *(["x" * 180] if form != tarfile.USTAR_FORMAT else [])):
                member = tarfile.TarInfo(name)
                member.size, member.pax_headers = 600, {"comment": "c"} if form == tarfile.PAX_FORMAT else {}
                archive.addfile(member, io.BytesIO(b"p" * 600))
        made.append(file.getvalue())
    return made


def _mutated_tar(data: bytes, rng: random.Random) -> bytes:
    """A field of a header set, with the header's checksum as it is then."""
    content = bytearray(data)
    heads = [at for at in range(0, len(content) - 511, 512) if content[at + 257 : at + 262] == b"ustar"]
    if not heads:
        return data
    at = rng.choice(heads)
    way = rng.random()
    if way < 0.4:
        content[at + 124 : at + 136] = rng.choice((
            b"77777777777\0", b"00000000000\0", b"-0000000777\0", b"\x80" + b"\0" * 6 + b"\xff" * 5, b"\xff" * 12,
            b"\xff" * 10 + b"\xfe\0", b"00000001000\0", b"x" * 12,
        ))  # fmt: skip
    elif way < 0.7:
        content[at + 156] = rng.choice(b"0123456789gxXLKSMVA\0")
    else:
        spot = at + rng.randrange(512)
        content[spot] = rng.randrange(256)
    content[at + 148 : at + 156] = b" " * 8
    content[at + 148 : at + 156] = b"%06o\0 " % (sum(content[at : at + 512]) % 2**18)
    if rng.random() < 0.3:  # what a PAX header says
        value = rng.choice(
            (b"20 size=-1\n", b"18 GNU.sparse.major=1\n", b"24 GNU.sparse.size=999\n", b"9" * 30, b"0 =\n")
        )
        spot = min(at + 512, len(content))
        content[spot : spot + len(value)] = value
    return bytes(content)


def _store(name: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        (path := folder / name).write_bytes(data)
        store = media.open_store(path)
        failed = None
        for member in store.names()[:5]:
            try:
                assert len(store.read(member)) <= images.MAX_BYTES
            except media.UserError as error:
                failed = error
        if failed is not None:
            raise failed

    return read


_FAMILIES = tuple(dict.fromkeys(("lmsys/vicuna-7b-v1.5", *twins.LLMS)))

TARGETS = {
    "torch": Target(_torch_seeds, _weights("x.bin"), _mutated_member),
    "safetensors": Target(_safetensors_seeds, _weights("x.safetensors"), _mutated_header),
    "index": Target(_index_seeds, _index, mutated_json),
    "gguf": Target(_gguf_seeds, _gguf, _mutated_gguf),
    "adapter": Target(_adapter_seeds, _adapter, mutated_json),
    "config-llm": Target(_of_twins("config.json", _FAMILIES), _config, mutated_json),
    "config-llava": Target(
        _of_twins("config.json", (*twins.TILED, LLAVA, ORIGINAL, CLIP, *twins.SIGLIPS)), _config, mutated_json
    ),
    "preprocessor": _preprocessor(CLIP, LLAVA),
    "preprocessor-tiles": _preprocessor(NEXT),
    "model-json": Target(_model_json_seeds, _model_json, mutated_json),
    "tokenizer-json": _tokenizer("tokenizer.json", QWEN),
    "tokenizer-config": _tokenizer("tokenizer_config.json", QWEN),
    "sentencepiece": _tokenizer("tokenizer.model", ORIGINAL),
    "png": Target(_picture_seeds("png"), _picture, _mutated_picture),
    "jpeg": Target(_picture_seeds("jpeg"), _picture, _mutated_picture),
    "gif": Target(_picture_seeds("gif"), _picture, _mutated_picture),
    "webp": Target(_picture_seeds("webp"), _picture, _mutated_picture),
    "bmp": Target(_picture_seeds("bmp"), _picture, _mutated_picture),
    "tiff": Target(_picture_seeds("tiff"), _picture, _mutated_picture),
    "zip": Target(_zip_seeds, _store("a.zip"), _mutated_picture),
    "tar": Target(_tar_seeds, _store("a.tar"), _mutated_tar),
}
