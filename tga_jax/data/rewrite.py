"""A file of samples written anew with something added to each: in its order, continued where it was stopped."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console

from tga_jax.data import llava_json
from tga_jax.data.open_samples import Samples
from tga_jax.errors import UserError
from tga_jax.report.progress import Progress
from tga_jax.workdir import Input, check_inputs, differences, disk_errors, read_json, write_json

Make = Callable[[Sequence[int]], Sequence[dict[str, Any]]]  # numbers of samples -> the samples to write


def _kept(aside: Path, file: Samples, field: str) -> int:
    """Whole lines that an earlier run wrote; the half line of a killed one is cut off. Raises UserError for a line of
    another sample than is there now."""
    if not aside.exists():
        return 0
    lines = whole = 0
    with aside.open("rb") as written:
        for line in written:
            if not line.endswith(b"\n"):
                break
            if lines >= len(file) or _bare(json.loads(line), field) != _bare(file[lines], field):
                which = file.where(lines) if lines < len(file) else f"{file.path}: sample {lines + 1}"
                raise UserError(
                    f"{aside} is unfinished: {which} is not what its line {lines + 1} was made from; put that back, "
                    "remove what is unfinished, or choose another --to"
                )
            lines, whole = lines + 1, whole + len(line)
    with aside.open("rb+") as written:
        written.truncate(whole)
    return lines


def _bare(value: Any, field: str) -> Any:
    """A sample without its text in `field`, to be compared; whatever else it is, if it is none."""
    try:
        return llava_json.with_text(value, field, "")
    except (AttributeError, KeyError, TypeError):
        return value


def check_target(target: Path) -> None:
    """Raises UserError for a file that is there already or has another ending; for before long work, too."""
    if target.suffix != ".jsonl":
        raise UserError(f"{target}: expected a name in .jsonl")
    if target.exists():
        raise UserError(f"{target}: is there already, expected a new file")


def rewrite(
    file: Samples,
    target: Path,
    field: str,
    settings: dict[str, Any],
    inputs: Mapping[str, Input],
    make: Make,
    batch: int,
    console: rich.console.Console,
) -> None:
    """Writes `target` as JSON lines, `batch` samples at a time, aside until it is whole.

    field: the text that `make` gives a sample, as `llava_json.with_text`; settings, inputs: what it depends on beside
    the samples. Raises UserError for an unfinished file of other settings, inputs or samples, a target that is there
    already or has another ending, a full disk, and what `make` raises; what was made is kept.
    """
    check_target(target)
    aside, beside = (target.with_name(f".{target.name}.{end}") for end in ("unfinished", "settings"))
    held = {name: given.content for name, given in inputs.items()}
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        if beside.exists():
            known = read_json(beside, "the settings of an unfinished run; remove it", ("settings", "inputs"))
            if found := differences(known["settings"], settings, "it"):
                raise UserError(f"{aside} is unfinished: {', '.join(found)}; remove it, or choose another --to")
            check_inputs(known["inputs"], inputs, f"{aside} is unfinished", "remove it, or choose another --to")
        else:
            aside.unlink(missing_ok=True)
            write_json(beside, {"settings": settings, "inputs": held})
        done = _kept(aside, file, field)
        with aside.open("a", encoding="utf-8") as out, Progress(console) as progress:
            task = progress.add_task("samples", total=len(file), completed=done)
            for start in range(done, len(file), batch):
                numbers = range(start, min(start + batch, len(file)))
                made = make(numbers)
                out.write("".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in made))
                out.flush()
                progress.update(task, completed=numbers[-1] + 1)
        aside.rename(target)
        beside.unlink()
