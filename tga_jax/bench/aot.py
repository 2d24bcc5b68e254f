"""`tga bench aot`: a training's very step, compiled for machines that are not here: what it holds and sends."""

import contextlib
import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import rich.console
import rich.table

from tga_jax.bench import figures, hlo, prepared, targets
from tga_jax.errors import UserError
from tga_jax.train.config import TrainConfig
from tga_jax.workdir import write_json

_WARNING = "involuntary full rematerialization"


@dataclasses.dataclass(frozen=True)
class AotFigures:
    """Bytes are of one device and step. gathered_formula: what FSDP should gather; None where nothing is divided.

    between_slices: of the arrays that it exchanges with other slices or machines; and by the formula, the gradients of
    its parameters, in the type that is computed in. None for one slice.
    """

    config: str
    target: str
    mesh: dict[str, int]
    batch_size: int
    rows: int
    length: int
    attention: str
    trace_and_lower_seconds: float
    compile_seconds: float
    arguments: int
    temporary: int
    peak: int
    memory: int | None  # of the chip
    fits: bool | None
    collectives: dict[str, dict[str, int]]
    gathered: int
    gathered_formula: float | None
    between_slices: int | None
    between_slices_formula: int | None
    warnings: list[str]


@contextlib.contextmanager
def _standard_error() -> Iterator[list[str]]:
    """Collects the lines that anything in this process, XLA's C++ too, writes to standard error."""
    lines: list[str] = []
    sys.stderr.flush()
    with tempfile.TemporaryFile("w+", errors="replace") as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            lines += file.read().splitlines()


def compile_for(config: TrainConfig, target: targets.Target, length: int = 0, pictures: int = 1) -> AotFigures:
    """Compiles the config's step for `target`, for which `targets.prepare` has set the environment.

    length: one of data.lengths, 0 for the last; pictures: of each sample. cuDNN's attention is compiled on a GPU alone,
    so "blocks" stands in for it: somewhat more memory, the same collectives. Raises UserError for a config that does
    not fit the target.
    """
    targets.check(target, config.mesh.num_slices)
    if target.chip is not None and target.chip.platform == "cuda":
        config = dataclasses.replace(config, attention="blocks")
    with _standard_error():  # a TPU's compiler tells at length that there is no TPU
        devices = targets.devices(target)
    made = prepared.prepare(config, devices, length, pictures)
    with jax.set_mesh(made.mesh), _standard_error() as errors:
        start = time.perf_counter()
        lowered = made.lower()
        between = time.perf_counter()
        try:
            compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            reason = str(error).splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
            raise UserError(f"{config.name} does not fit {target.name}: {reason}") from error
        end = time.perf_counter()
    memory = compiled.memory_analysis()
    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    peak = arguments + temporary + memory.output_size_in_bytes - memory.alias_size_in_bytes
    exchanged = hlo.collectives(compiled.as_text())
    collectives = hlo.totals(exchanged, prepared.parameter_sizes(made))
    slices = max(target.slices, config.mesh.num_slices)
    capacity = None if target.chip is None else target.chip.memory
    return AotFigures(
        config.name, target.name, dict(made.mesh.shape), config.batch_size, made.rows, made.length,
        made.attention,
        trace_and_lower_seconds=between - start,
        compile_seconds=end - between,
        arguments=arguments,
        temporary=temporary,
        peak=peak,
        memory=capacity,
        fits=None if capacity is None else peak <= capacity,
        collectives=collectives,
        gathered=collectives["all-gather"]["parameters"],
        gathered_formula=made.gathered,
        between_slices=hlo.between_slices(exchanged, target.count, slices) if slices > 1 else None,
        between_slices_formula=made.itemsize * prepared.trained_elements(made) if slices > 1 else None,
        warnings=[line for line in errors if _WARNING in line.lower()],
    )  # fmt: skip


def show(console: rich.console.Console, found: AotFigures) -> None:
    mesh = ", ".join(f"{name} {size}" for name, size in found.mesh.items())
    console.print(
        f"{found.config} on {found.target} ({mesh}), {figures.rows(found.batch_size, found.rows, found.length)}, "
        f"attention {found.attention}: traced and lowered in {found.trace_and_lower_seconds:.1f} s, compiled in "
        f"{found.compile_seconds:.1f} s"
    )
    gib = 2**30
    verdict = "fits" if found.fits else "DOES NOT FIT"
    fits = "" if found.memory is None else f" of {found.memory / gib:.1f} GiB: {verdict}"
    console.print(
        f"a device: arguments {found.arguments / gib:.2f} GiB, temporary {found.temporary / gib:.2f} GiB, peak "
        f"{found.peak / gib:.2f} GiB{fits}"
    )
    table = rich.table.Table("sent in a step", "of parameters, GB", "of activations, GB", "times")
    for kind, sums in found.collectives.items():
        if sums["instructions"]:
            counts = (f"{sums[what] / 1e9:.4g}" for what in ("parameters", "activations"))
            table.add_row(kind, *counts, str(sums["instructions"]))
    if table.row_count:
        console.print(table)
    if found.gathered_formula:
        console.print(
            f"parameters gathered: {found.gathered / 1e9:.4g} GB; by the formula "
            f"{found.gathered_formula / 1e9:.4g} GB, {found.gathered / found.gathered_formula - 1:+.1%}"
        )
    if found.between_slices is not None and found.between_slices_formula:
        console.print(
            f"exchanged between slices: {found.between_slices / 1e9:.4g} GB; by the formula "
            f"{found.between_slices_formula / 1e9:.4g} GB, "
            f"{found.between_slices / found.between_slices_formula - 1:+.1%}"
        )
    for line in found.warnings:
        console.print(line, style="red", markup=False)


def report(
    console: rich.console.Console,
    config: TrainConfig,
    target: targets.Target,
    path: Path | None,
    *,
    length: int,
    pictures: int,
) -> None:
    """Prints the figures. path: they go there as JSON. Raises UserError as `compile_for` does."""
    with console.status(f"compiling {config.name} for {target.name}"):
        found = compile_for(config, target, length, pictures)
    show(console, found)
    if path is not None:
        write_json(path, {"bench": "aot", **figures.circumstances(), **dataclasses.asdict(found)})
