"""Many rows, several seeds: a grid of cells, made in turn or at once, and what they say to the paper's claims."""

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import rich.markup
import rich.table
from rich.console import Console

from tga_jax.demo import cells, claims, jobs, main, mechanism, page, trainings
from tga_jax.demo.cells import Cell
from tga_jax.demo.config import DemoConfig
from tga_jax.demo.grid import MISSING, Grid, Table
from tga_jax.errors import UserError
from tga_jax.report import terminal
from tga_jax.report.progress import Progress
from tga_jax.train import stopping
from tga_jax.workdir import write_json, write_text

Cells = dict[Cell, dict[str, Any]]  # with what is kept of each
_REPORTED_EVERY = 60.0  # seconds, where rows are made at once


def write(grid: Grid, workdir: Path) -> None:
    """`table.md` and `report.html` with what they lead to, and `results.json`, which is the cells without answers."""
    text = "\n".join(table.markdown() for table in claims.tables(grid))
    write_text(workdir / "table.md", text)
    rates = {cell.name: {k: v for k, v in found.items() if k != "answers"} for cell, found in grid.found.items()}
    correlations = {
        name: {"rank_correlation": rho, "p": p, "cells": n}
        for name, (rho, p, n) in mechanism.correlations(grid).items()
    }
    missing = [cell.name for cell in grid.cells if cell not in grid.found]
    write_json(workdir / "results.json", {"cells": rates, "correlations": correlations, "missing": missing})
    page.write(grid, workdir)


def _make_clip(config: DemoConfig, parts: Path) -> None:
    """A job: CLIP, and what it sees in all pictures, from which all rows of a seed start."""
    with Progress(Console(quiet=True)) as bars:
        world = main.open_world(config, parts, bars)
        trainings.attach(world, trainings.train_clip(world))


def _make_cells(config: DemoConfig, parts: Path, folder: Path, wanted: Sequence[Cell]) -> None:
    """A job: cells of one row, by stage."""
    with Progress(Console(quiet=True)) as bars:
        world = main.open_world(config, parts, bars)
        for cell in wanted:
            cells.store(folder, cell, cells.make(world, cell))
            stopping.stop_if_asked()


def _jobs(config: DemoConfig, missing: Sequence[Cell], parts: Path, folder: Path) -> Iterator[tuple[str, jobs.Job]]:
    """By name: of each seed its text model and its CLIP, and then each row."""
    for seed in dict.fromkeys(cell.seed for cell in missing):
        own = dataclasses.replace(config, seed=seed)
        make = partial(_make_cells, own, parts, folder)
        first = f"seed{seed}-{cells.TEXT}", f"seed{seed}-clip"
        wanted: dict[str, list[Cell]] = {cells.TEXT: []}
        for cell in missing:
            if cell.seed == seed:
                wanted.setdefault(cell.row, []).append(cell)
        text = wanted.pop(cells.TEXT)
        if text:
            yield first[0], jobs.Job(partial(make, text))
        if wanted:
            yield first[1], jobs.Job(partial(_make_clip, own, parts))
        for row, stages in wanted.items():
            yield f"seed{seed}-{row}", jobs.Job(partial(make, stages), first if text else first[1:])


def _in_turn(made: Grid, missing: Sequence[Cell], found: Cells, workdir: Path, parts: Path, console: Console) -> None:
    with stopping.stop_requests(), Progress(console) as bars:
        for cell in missing:
            stopping.stop_if_asked()
            console.print(f"cell {made.cells.index(cell) + 1} of {len(made.cells)}: {cell.name}")
            world = main.open_world(dataclasses.replace(made.config, seed=cell.seed), parts, bars)
            found[cell] = cells.make(world, cell)
            cells.store(workdir / "cells", cell, found[cell])
            with world.shows("drawing the report"):
                write(made, workdir)


def _at_once(
    made: Grid, missing: Sequence[Cell], found: Cells, workdir: Path, parts: Path, console: Console, count: int
) -> None:
    folder, reported = workdir / "cells", time.monotonic()
    # What one process has compiled the others read.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.fspath(parts / "compiled"))
    for name in jobs.run(dict(_jobs(made.config, missing, parts, folder)), count):
        for cell in missing:
            if cell not in found and (kept := cells.stored(folder, made.config, cell)) is not None:
                found[cell] = kept
        console.print(f"{name}: done; {len(found)} of {len(made.cells)} cells")
        if found and time.monotonic() > reported + _REPORTED_EVERY:
            write(made, workdir)
            reported = time.monotonic()


def run(
    config: DemoConfig,
    seeds: Sequence[int],
    rows: Sequence[str],
    workdir: Path,
    parts: Path,
    console: Console,
    only_tables: bool = False,
    at_once: int = 1,
) -> None:
    """Makes what is missing of the grid, each cell a file in `<workdir>/cells`; after each, tables and page are new.

    only_tables: makes nothing, and writes tables and page of the cells that are there. at_once: how many rows are made
    at the same time, each in a process of its own.

    Raises what the trainings raise; stopped, the same call continues.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"--seeds: {','.join(map(str, seeds)) or 'none'}, expected different numbers such as 0,1,2")
    if at_once < 1:
        raise UserError(f"--jobs: {at_once}, expected at least 1")
    folder = workdir / "cells"
    grid = list(cells.of_grid(config, tuple(seeds), tuple(rows)))
    found: Cells = {}
    for cell in grid:
        if (kept := cells.stored(folder, config, cell)) is not None:
            found[cell] = kept
        elif cell.file(folder).exists():
            then = "left out of the table" if only_tables else "made again, in its place"
            console.print(f"cell {cell.name}: kept from another config; {then}")
    made, missing = Grid(config, grid, found), [cell for cell in grid if cell not in found and not only_tables]
    if at_once == 1:
        _in_turn(made, missing, found, workdir, parts, console)
    elif missing:
        _at_once(made, missing, found, workdir, parts, console, at_once)
    if not found:
        raise UserError(f"{folder}: no cells of this grid, expected at least one; run without --tables to make them")
    write(made, workdir)
    console.print(_shown(claims.tables(made)[0]))
    console.print(f"report: {os.fspath(workdir / 'report.html')}")


def _shown(claim: Table) -> rich.table.Table:
    """A claim's table for 80 columns: without intervals, and without the lines that are missing."""
    caption = "Intervals, cells that are missing, and what the rates mean are in the report."
    drawn = terminal.table(title=claim.title, caption=caption)
    first, *others = claim.head
    drawn.add_column(first)
    for title in others:
        drawn.add_column(title.replace(" ", "\n").replace("-", "-\n"), no_wrap=True)
    for line in claim.lines:
        if all(number.value == MISSING for number in line[1:]):
            continue
        drawn.add_row(*(rich.markup.escape(number.value.replace("`", "")) for number in line))
    return drawn
