"""Many rows, several seeds: a grid of cells, made one after another, and a table of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.markdown

from tga_jax.demo import cells, main
from tga_jax.demo.cells import Cell
from tga_jax.demo.config import DemoConfig
from tga_jax.errors import UserError
from tga_jax.train import loop
from tga_jax.workdir import write_text

# What the table shows: (answers, rate) -> heading.
_COLUMNS = {
    ("text", "text_dsr"): "text DSR",
    ("test", "image_dsr"): "image DSR",
    ("test", "benign_naming"): "naming",
    ("test", "benign_color"): "colour",
    ("test", "over_refusal"): "over-refusal",
    ("test", "look_alike_over_refusal"): "look-alikes refused",
    ("test", "harmful_naming"): "harmful named",
    ("test+new", "image_dsr"): "DSR, new questions",
    ("test+retrieved", "image_dsr"): "DSR, R in prompt",
    ("test_pairs", "image_dsr"): "DSR, new colours",
    ("test_hand", "image_dsr"): "DSR, unseen hand",
    ("test_hand", "benign_naming"): "naming, unseen hand",
    ("test_two", "image_dsr"): "DSR, two things",
    ("test_two", "benign_naming"): "naming, two things",
    ("test_two", "over_refusal"): "over-refusal, two things",
}


def table(found: Mapping[Cell, Mapping[str, Any]], grid: Sequence[Cell]) -> str:
    """Markdown: a line for each row and stage, a cell for each rate: of one seed `value [95 % Wilson interval]`, of
    several `mean (lowest to highest)`. "-" where it was not measured, "missing" where no cell is there yet."""

    def rate(cells: Sequence[Cell], key: tuple[str, str]) -> str:
        if not (there := [found[cell]["rates"] for cell in cells if cell in found]):
            return "missing"
        rates = [r[key[0]][key[1]] for r in there if key[1] in r.get(key[0], {})]
        known = [r for r in rates if r["value"] is not None]
        if not known:
            return "-"
        values = [r["value"] for r in known]
        if len(values) == 1:
            return f"{values[0]:.2f} [{known[0]['low']:.2f}, {known[0]['high']:.2f}]"
        return f"{sum(values) / len(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    lines = [["row", "after", "seeds", *_COLUMNS.values()], ["---"] * (3 + len(_COLUMNS))]
    for row, stage in dict.fromkeys((cell.row, cell.stage) for cell in grid):
        of_seeds = [cell for cell in grid if (cell.row, cell.stage) == (row, stage)]
        seeds = sum(cell in found for cell in of_seeds)
        lines.append([f"`{row}`", stage or "-", str(seeds), *(rate(of_seeds, key) for key in _COLUMNS)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def run(
    config: DemoConfig,
    seeds: Sequence[int],
    rows: Sequence[str],
    workdir: Path,
    parts: Path,
    console: rich.console.Console,
    only_tables: bool = False,
) -> None:
    """Makes what is missing of the grid, each cell a file in `<workdir>/cells`; after each `<workdir>/table.md` is new.

    only_tables: makes nothing, and writes the table of the cells that are there.

    Raises what the trainings raise; stopped, the same call continues.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"--seeds: {','.join(map(str, seeds)) or 'none'}, expected different numbers such as 0,1,2")
    folder = workdir / "cells"
    grid = list(cells.of_grid(config, tuple(seeds), tuple(rows)))
    found: dict[Cell, dict[str, Any]] = {}
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
            write_text(workdir / "table.md", table(found, grid))
    if found:
        write_text(workdir / "table.md", table(found, grid))
    console.print(rich.markdown.Markdown(table(found, grid)))
