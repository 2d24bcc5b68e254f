"""A run's folder: which config it belongs to, and writing into it without leaving half a file."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tga_jax.errors import UserError


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns a full or read-only disk into a UserError that names the folder.

    Storage libraries wrap the system's error in types of their own, so its words are recognised too.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or any(words in str(error) for words in ("No space left", "RESOURCE_EXHAUSTED", "Disk quota")):
            raise UserError(f"{folder}: no space left on the disk; free some and run the same command again") from error
        if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
            raise UserError(f"{folder}: cannot write here, expected a writable folder") from error
        raise


def write_text(path: Path, text: str) -> None:
    """Writes aside, then renames: readers see the old file or the whole new one."""
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            aside.write_text(text, encoding="utf-8")
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def first_difference(old: Any, new: Any, name: str = "config") -> str | None:
    """The first field in which two JSON values differ, with both values; None if they are equal."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if (found := first_difference(old.get(key), new.get(key), f"{name}.{key}")) is not None:
                return found
        return None
    return None if old == new else f"{name} is {json.dumps(old)} there and {json.dumps(new)} now"


def holds(workdir: Path, config: dict[str, Any]) -> bool:
    """Whether `workdir` is this config's own; False if it is new. Raises UserError if it holds another config's run."""
    path = workdir / "config.json"
    if path.exists():
        try:
            old = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: not JSON ({error}); choose another workdir or remove this one") from error
        if (difference := first_difference(old, json.loads(json.dumps(config)))) is not None:
            raise UserError(f"{workdir} holds another run: {difference}; choose another --workdir")
        return True
    if workdir.exists() and any(workdir.iterdir()):
        raise UserError(f"{workdir}: not empty and without config.json, expected an empty folder or an earlier run's")
    return False


def claim(workdir: Path, config: dict[str, Any]) -> None:
    """Makes `workdir` this config's own, or checks that it is. Raises UserError if it holds another config's run."""
    if not holds(workdir, config):
        write_json(workdir / "config.json", config)
