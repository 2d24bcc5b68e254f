"""Rows that take long to compute, kept on disk by what they are computed from."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tga_jax.errors import UserError
from tga_jax.workdir import replacing, write_json

ABOUT = "about.json"
ROWS = "rows.npy"


def digest(parts: Iterable[str | bytes]) -> str:
    """SHA-256 of the parts, each with its length: other parts never give the same by being cut elsewhere."""
    sha = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        sha.update(len(data).to_bytes(8, "big") + data)
    return sha.hexdigest()


def parts(values: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [values[i : i + size] for i in range(0, len(values), size)]


def home(folder: Path, kind: str, keys: Sequence[str]) -> Path:
    """Where `rows` puts them."""
    return folder / f"{kind}-{digest(keys)[:16]}"


def rows(
    folder: Path, kind: str, keys: Sequence[str], make: Callable[[int], np.ndarray], about: dict[str, Any]
) -> np.ndarray:
    """The rows of all parts, memory-mapped from `rows.npy` in their `home`.

    keys: for every part the digest of all that it is computed from; make: computes part i, called in order for those
    that are not there. Each is kept as soon as it is made, so that a run that is stopped loses one part at most, and a
    run on changed data keeps the parts before the change. about: what a person may want to know of the folder, written
    beside the rows. Raises UserError for a file that cannot be read.
    """
    place = home(folder, kind, keys)
    whole = place / ROWS
    if not whole.exists():
        files = [folder / "parts" / f"{kind}-{key[:32]}.npy" for key in keys]
        for i, file in enumerate(files):
            if not file.exists():
                with replacing(file) as aside, aside.open("wb") as out:
                    np.save(out, make(i))
        made = [read(file) for file in files]
        shape = (sum(map(len, made)), *made[0].shape[1:])
        write_json(place / ABOUT, {**about, "kind": kind, "shape": shape, "dtype": str(made[0].dtype)})
        with replacing(whole) as aside:
            joined = np.lib.format.open_memmap(aside, "w+", made[0].dtype, shape)
            np.concatenate(made, out=joined)
            joined.flush()
        for file in files:
            file.unlink(missing_ok=True)
    return read(whole)


def read(file: Path) -> np.ndarray:
    """Memory-mapped. Raises UserError naming the file if it cannot be read."""
    try:
        return np.load(file, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{file}: cannot be read ({error}); remove it to make it again") from error
