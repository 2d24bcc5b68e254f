"""A file of samples written anew with something added to each: in its order, continued where it was stopped."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.progress

from tga_jax.data.open_samples import Samples
from tga_jax.errors import UserError
from tga_jax.workdir import differences, disk_errors, read_json, write_json

Make = Callable[[Sequence[int]], Sequence[dict[str, Any]]]  # numbers of samples -> the samples to write


def _kept(aside: Path) -> int:
    """Whole lines that an earlier run wrote; the half line of a killed one is cut off."""
    if not aside.exists():
        return 0
    lines = whole = 0
    with aside.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                lines, whole = lines + 1, whole + len(line)
    with aside.open("rb+") as file:
        file.truncate(whole)
    return lines


def check_target(target: Path) -> None:
    """Raises UserError for a file that is there already or has another ending; for before long work, too."""
    if target.suffix != ".jsonl":
        raise UserError(f"{target}: expected a name in .jsonl")
    if target.exists():
        raise UserError(f"{target}: is there already, expected a new file")


def rewrite(
    file: Samples, target: Path, settings: dict[str, Any], make: Make, batch: int, console: rich.console.Console
) -> None:
    """Writes `target` as JSON lines, `batch` samples at a time, aside until it is whole.

    settings: what the result depends on; an unfinished file of other settings is refused. Raises UserError for that, a
    target that is there already or has another ending, a full disk, and what `make` raises; what was made is kept.
    """
    check_target(target)
    aside, beside = (target.with_name(f".{target.name}.{end}") for end in ("unfinished", "settings"))
    settings = {**settings, "data": str(file.path), "samples": len(file)}
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        if beside.exists():
            if found := differences(read_json(beside, "the settings of an unfinished run"), settings, "it"):
                raise UserError(f"{aside} is unfinished: {', '.join(found)}; remove it, or choose another --to")
        else:
            aside.unlink(missing_ok=True)
            write_json(beside, settings)
        done = _kept(aside)
        with aside.open("a", encoding="utf-8") as out, rich.progress.Progress(console=console) as progress:
            task = progress.add_task("samples", total=len(file), completed=done)
            for start in range(done, len(file), batch):
                numbers = range(start, min(start + batch, len(file)))
                made = make(numbers)
                out.write("".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in made))
                out.flush()
                progress.update(task, completed=numbers[-1] + 1)
        aside.rename(target)
        beside.unlink()
