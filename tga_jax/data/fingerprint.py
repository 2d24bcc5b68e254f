"""What a run reads, known by its content: by it a continued run is refused once something else lies in its place.

A fingerprint is the size and a hash of every file, by name, and depends neither on where a folder lies nor on times:
what was moved or copied is the same. Of a large file only a sample of bytes is read, so that one of 100 GB takes no
longer than one of 100 MB.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from tga_jax import workdir
from tga_jax.data import bucket
from tga_jax.data.media import Store
from tga_jax.errors import UserError
from tga_jax.workdir import AnyPath, Content, Input

_WHOLE = 1 << 26  # bytes up to which all are read
_BLOCKS, _BLOCK = 1024, 1 << 14  # of a larger file: evenly spaced, the first and the last bytes among them
_PICTURES = 64  # of a file of samples, evenly spaced
_WEIGHTS = (".safetensors", ".bin", ".gguf")
_COMPANIONS = (".json", ".jinja", ".model", ".txt")  # what a folder of the hub keeps beside its weights
# config.json: by it transformers chooses the tokenizer's class; processor_config.json may hold a chat template.
_TOKENIZER = (
    "tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "chat_template", "spiece", "config.json",
    "processor_config",
)  # fmt: skip


class Rows(Protocol):
    """Samples, as `open_samples` opens them."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def of_bytes(data: bytes) -> str:
    """`size:hash`."""
    return f"{len(data)}:{hashlib.blake2b(data, digest_size=16).hexdigest()}"


def _of_file(path: AnyPath, whole: bool = False) -> str:
    """`size:hash`; whole: of all bytes, however many."""
    found = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        sampled = size > _WHOLE and not whole
        starts = ((size - _BLOCK) * i // (_BLOCKS - 1) for i in range(_BLOCKS)) if sampled else range(0, size, _WHOLE)
        for start in starts:
            file.seek(start)
            found.update(file.read(_BLOCK if sampled else _WHOLE))
    return f"{size}:{found.hexdigest()}"


def _below(folder: AnyPath) -> Iterator[AnyPath]:
    """All files, those of hidden names left out."""
    for path in sorted(folder.iterdir()):
        if not path.name.startswith("."):
            yield from _below(path) if path.is_dir() else (path,)


def _of_files(folder: AnyPath, files: Iterable[AnyPath]) -> Content:
    return {os.path.relpath(os.fspath(path), os.fspath(folder)): _of_file(path) for path in files}


def of_checkpoint(path: AnyPath, part: str = "") -> Content:
    """Of a checkpoint of ours, a folder of the hub, a training's work folder or one file; {} if nothing is there.

    part: the only one of `clip`, `projector` and `llm` that is read of it. Of a folder of the hub other files than
    weights, configs and tokenizers are left out, such as a README. Raises UserError for what cannot be read.
    """
    with workdir.reading(path):
        if not path.exists():
            return {}
        if not path.is_dir():
            return {".": _of_file(path)}
        if (path / "params").is_dir():
            ours = [path / "params" / part, path / "model.json", path / "hub"]
            files = [f for p in ours if p.exists() for f in (_below(p) if p.is_dir() else (p,))]
            return _of_files(path, files)
        files = (f for f in sorted(path.iterdir()) if f.suffix in (*_WEIGHTS, *_COMPANIONS) and not f.is_dir())
        return _of_files(path, files)


def of_tokenizer(folder: AnyPath) -> Content:
    """{} if nothing is there. Raises UserError for what cannot be read."""
    with workdir.reading(folder):
        if not folder.is_dir():
            return {}
        return _of_files(folder, (f for f in sorted(folder.iterdir()) if f.name.startswith(_TOKENIZER)))


def of_samples(path: AnyPath) -> Input:
    """Of every byte of a file of samples, or of what `tga build-data` wrote; of nothing if nothing is there. Of shards
    in a bucket the checksums that it tells, which are compared with each other alone. Raises UserError for what cannot
    be read."""
    with workdir.reading(path):
        if not path.exists():
            return Input(str(path), {})
        if not workdir.is_remote(path):
            found = _of_files(path, _below(path)) if path.is_dir() else {".": _of_file(path, whole=True)}
            return Input(str(path), found)
        if not path.is_dir():
            return Input(str(path), {".": _of_file(bucket.copied(path), whole=True)})
        names = bucket.below(path)
        return Input(str(path), {f"{name} in the bucket": bucket.checksum(path / name) for name in names}, some=True)


def of_pictures(samples: Rows, store: Store | None) -> Input:
    """Of some of the pictures that the samples name, as far as they can be read; of none where the samples hold them,
    or without a store."""
    if store is None:
        return Input("", {})
    found: Content = {}
    if samples is not store:
        for row in sorted({len(samples) * i // _PICTURES for i in range(_PICTURES)}):
            try:
                value = samples[row]
                image = value.get("image") if isinstance(value, dict) else None
                name = image[0] if isinstance(image, list) and image else image
                if isinstance(name, str) and name:
                    found[name] = of_bytes(store.read(name))
            except UserError:  # the run itself says so, if it comes to this sample
                continue
    return Input(str(store.path), found, some=True)
