"""Files in Google Cloud Storage, "gs://bucket/folder/file": read by parts, or copied to this machine once.

Copies lie in $TGA_CACHE, by default ~/.cache/tga_jax, named by the size and the checksum that the bucket tells of a
file, too: what was replaced there is copied anew. Processes of one machine share them.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tga_jax import workdir
from tga_jax.workdir import AnyPath


def filesystem() -> Any:
    """fsspec's, which is the same object for all who ask in a process."""
    import fsspec

    return fsspec.filesystem("gs")


@functools.cache
def _info(path: str) -> dict[str, Any]:
    with workdir.reading(workdir.located(path)):
        return filesystem().info(path)


def checksum(path: AnyPath) -> str:
    """`size:checksum` of a file, as the bucket tells it, without reading the file. Raises UserError."""
    found = _info(os.fspath(path))
    return f"{found['size']}:{found.get('md5Hash') or found.get('crc32c') or found.get('etag')}"


def below(folder: AnyPath) -> list[str]:
    """Names of all files, from the folder on, sorted. Raises UserError."""
    with workdir.reading(folder):
        found = filesystem().find(os.fspath(folder))
    start = len(os.fspath(folder).removeprefix("gs://").rstrip("/")) + 1
    return sorted(name[start:] for name in found)


def copied(path: AnyPath) -> Path:
    """A file's copy on this machine, made unless it is there. Raises UserError if it cannot be read or stored."""
    text = os.fspath(path)
    version = hashlib.blake2b(f"{text} {checksum(path)}".encode(), digest_size=8).hexdigest()
    place = _home() / "buckets" / path.parent.name / f"{path.stem}-{version}{path.suffix}"
    if not place.exists():
        with workdir.alone(place):
            if not place.exists():
                with workdir.replacing(place) as aside, workdir.reading(path):
                    filesystem().get_file(text, str(aside))
    return place


def mirrored(folder: AnyPath, names: Sequence[str]) -> Path:
    """A folder of this machine with links to copies of these files of a bucket's folder. Raises UserError."""
    found = [copied(folder / name) for name in names]
    key = hashlib.blake2b("\n".join(map(str, found)).encode(), digest_size=8).hexdigest()
    here = _home() / "folders" / f"{folder.name}-{key}"
    for name in names:
        add(here, folder, name)
    return here


def add(here: Path, folder: AnyPath, name: str) -> None:
    """Puts one more file into what `mirrored` gave for the folder. Raises UserError."""
    link = here / name
    if not link.exists():
        place = copied(folder / name)
        with workdir.disk_errors(here):
            link.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # another process was quicker
                link.symlink_to(place)


def _home() -> Path:
    return Path(os.environ.get("TGA_CACHE") or Path.home() / ".cache" / "tga_jax").absolute()
