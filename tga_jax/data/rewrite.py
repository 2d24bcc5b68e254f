"""A file of samples written anew with something added to each: in its order, continued where it was stopped."""

import contextlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console

from tga_jax.data import llava_json
from tga_jax.data.open_samples import Samples
from tga_jax.errors import UserError
from tga_jax.report.progress import Progress
from tga_jax.workdir import Input, check_inputs, differences, disk_errors, json_line, read_json, working, write_json

Make = Callable[[Sequence[int]], Sequence[dict[str, Any]]]  # numbers of samples -> the samples to write


def _kept(aside: Path, file: Samples, field: str, own: Sequence[int]) -> int:
    """Whole lines that an earlier run wrote; the half line of a killed one is cut off. own: the samples that they are
    of. Raises UserError for a line of another sample than is there now."""
    if not aside.exists():
        return 0
    lines = whole = 0
    with aside.open("rb") as written:
        for line in written:
            if not line.endswith(b"\n"):
                break
            if lines >= len(own) or _bare(json.loads(line), field) != _bare(file[own[lines]], field):
                which = file.where(own[lines]) if lines < len(own) else f"{file.path}: sample {len(file) + 1}"
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
    process: int = 0,
    processes: int = 1,
    wait_for_all: Callable[[str], None] = lambda what: None,
) -> None:
    """Writes `target` as JSON lines, `batch` samples at a time, aside until it is whole.

    field: the text that `make` gives a sample, as `llava_json.with_text`; settings, inputs: what it depends on beside
    the samples. Of several processes, with a target that all see, each makes every so-many-th batch, and the first one
    joins them: the bytes are those of one process. Raises UserError for an unfinished file of other settings, inputs or
    samples, a target that is there already or has another ending, a full disk, another process that makes `target`, and
    what `make` raises; what was made is kept.
    """
    check_target(target)
    ends = [f"unfinished-{i}-of-{processes}" if processes > 1 else "unfinished" for i in range(processes)]
    asides, beside = [target.with_name(f".{target.name}.{end}") for end in ends], f".{target.name}.settings"
    aside, beside = asides[process], target.with_name(beside)
    parts = [range(start, min(start + batch, len(file))) for start in range(0, len(file), batch)]
    own = [n for part in parts[process::processes] for n in part]
    if processes > 1:
        settings = settings | {"processes": processes, "batch": batch}
    held = {name: given.content for name, given in inputs.items()}
    with working(target, "--to", process), disk_errors(target.parent):
        check_target(target)  # it may have come while this process began
        if beside.exists():
            known = read_json(beside, "the settings of an unfinished run; remove it", ("settings", "inputs"))
            if found := differences(known["settings"], settings, "it"):
                raise UserError(f"{aside} is unfinished: {', '.join(found)}; remove it, or choose another --to")
            check_inputs(known["inputs"], inputs, f"{aside} is unfinished", "remove it, or choose another --to")
        else:
            aside.unlink(missing_ok=True)
            wait_for_all("what is unfinished is looked for")
            if process == 0:
                write_json(beside, {"settings": settings, "inputs": held})
        wait_for_all("the settings are written")
        done = _kept(aside, file, field, own)
        with aside.open("a", encoding="utf-8") as out, Progress(console) as progress:
            task = progress.add_task("samples", total=len(own), completed=done)
            for start in range(done, len(own), batch):
                numbers = own[start : start + batch]
                made = make(numbers)
                out.write("".join(json_line(sample) for sample in made))
                out.flush()
                progress.update(task, completed=start + len(numbers))
        wait_for_all("all samples are made")
        if process == 0:
            _join(asides, [len(part) for part in parts], target)
            beside.unlink()
        wait_for_all("the target is written")


def _join(asides: Sequence[Path], sizes: Sequence[int], target: Path) -> None:
    """Makes one file of the processes' batches, in turns; sizes: lines of each batch."""
    if len(asides) > 1:
        whole = target.with_name(f".{target.name}.joined")
        with contextlib.ExitStack() as stack, whole.open("wb") as out:
            files = [stack.enter_context(path.open("rb")) for path in asides]
            for number, size in enumerate(sizes):
                out.writelines(itertools.islice(files[number % len(files)], size))
        whole.rename(target)
        for path in asides:
            path.unlink()
    else:
        asides[0].rename(target)
