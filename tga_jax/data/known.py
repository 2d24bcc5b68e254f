"""`tga validate-data --known`: the data sets that the configs and suites name, and whether a folder holds one."""

import tomllib
from pathlib import Path
from typing import Any

import rich.console

from tga_jax.errors import UserError

FILE = Path(__file__).parents[2] / "third_party" / "datasets.toml"


def entries() -> list[dict[str, Any]]:
    """Raises UserError if the table is missing, as it is outside a checkout."""
    try:
        return tomllib.loads(FILE.read_text(encoding="utf-8"))["dataset"]
    except (OSError, tomllib.TOMLDecodeError, KeyError) as error:
        raise UserError(f"{FILE}: cannot be read ({error})") from error


def missing(name: str, folder: Path) -> list[str]:
    """What a download of the data set lacks: the patterns that no file matches. Raises UserError for another name."""
    found = [entry for entry in entries() if entry["name"] == name.lower()]
    if not found:
        raise UserError(f"--known: {name!r}, expected one of {', '.join(entry['name'] for entry in entries())}")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder, expected a download of {name}")
    lacking = []
    for item in found[0]["layout"]:
        choices = [item] if isinstance(item, str) else item
        if not any(next(folder.glob(pattern), None) for pattern in choices):
            lacking.append(" or ".join(choices))
    return lacking


def tell(name: str | None, folder: Path | None, console: rich.console.Console) -> int:
    """Prints the table, or what the folder lacks; the exit status: 1 if it lacks something."""
    if name is None or folder is None:
        for entry in entries():
            lines = [f"{entry['name']}: {entry['what']}", *(f"    from {source}" for source in entry["from"])]
            size = f"{entry['size']}; " if "size" in entry else ""
            console.print("\n".join([*lines, f"    {size}licence: {entry['licence']}"]), markup=False, soft_wrap=True)
        return 0
    lacking = missing(name, folder)
    for item in lacking:
        console.print(f"{folder}: lacks {item}", markup=False, soft_wrap=True)
    console.print(f"{folder}: {'not all' if lacking else 'all'} of {name}'s layout is there", soft_wrap=True)
    return 1 if lacking else 0
