"""Many rows, several seeds: a grid of cells, made one after another, and what they say to the paper's claims."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.markdown

from tga_jax.demo import cells, claims, main, mechanism, page
from tga_jax.demo.cells import Cell
from tga_jax.demo.config import DemoConfig
from tga_jax.demo.grid import Grid
from tga_jax.errors import UserError
from tga_jax.train import loop
from tga_jax.workdir import write_json, write_text


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


def run(
    config: DemoConfig,
    seeds: Sequence[int],
    rows: Sequence[str],
    workdir: Path,
    parts: Path,
    console: rich.console.Console,
    only_tables: bool = False,
) -> None:
    """Makes what is missing of the grid, each cell a file in `<workdir>/cells`; after each, tables and page are new.

    only_tables: makes nothing, and writes tables and page of the cells that are there.

    Raises what the trainings raise; stopped, the same call continues.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"--seeds: {','.join(map(str, seeds)) or 'none'}, expected different numbers such as 0,1,2")
    folder = workdir / "cells"
    grid = list(cells.of_grid(config, tuple(seeds), tuple(rows)))
    found: dict[Cell, dict[str, Any]] = {}
    made = Grid(config, grid, found)
    for cell in grid:
        if (kept := cells.stored(folder, config, cell)) is not None:
            found[cell] = kept
        elif cell.file(folder).exists():
            then = "left out of the table" if only_tables else "made again, in its place"
            console.print(f"cell {cell.name}: kept from another config; {then}")
    with loop.stop_requests(), loop.progress_bars(console) as bars:
        for number, cell in enumerate(grid, 1):
            if cell in found or only_tables:
                continue
            loop.stop_if_asked()
            console.print(f"cell {number} of {len(grid)}: {cell.name}")
            world = main.open_world(dataclasses.replace(config, seed=cell.seed), parts, bars)
            found[cell] = cells.make(world, cell)
            cells.store(folder, cell, found[cell])
            with world.shows("drawing the report"):
                write(made, workdir)
    if not found:
        raise UserError(f"{folder}: no cells of this grid, expected at least one; run without --tables to make them")
    write(made, workdir)
    console.print(rich.markdown.Markdown(claims.tables(made)[0].markdown()))
    console.print(f"report: {os.fspath(workdir / 'report.html')}")
