"""A grid of cells and the numbers in it: what tables are made of.

Every number knows the cell and the answers that it was counted from, so that a page can lead there.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tga_jax.demo.cells import TEXT, Cell
from tga_jax.demo.config import DemoConfig

Found = Mapping[Cell, Mapping[str, Any]]
MISSING, NONE = "missing", "-"


@dataclasses.dataclass(frozen=True)
class Number:
    """value: as it is shown; spread: its interval or range, if it has one; sources: (cell, which of its answers), one
    for each seed."""

    value: str
    spread: str = ""
    sources: tuple[tuple[Cell, str], ...] = ()

    @property
    def text(self) -> str:
        return f"{self.value} {self.spread}".strip()


@dataclasses.dataclass(frozen=True)
class Table:
    """One claim. says: the claim; caveat: what the numbers do not show; lines: of a heading and a number for each other
    heading."""

    name: str
    title: str
    says: str
    caveat: str
    head: Sequence[str]
    lines: Sequence[Sequence[Number]]

    def markdown(self) -> str:
        head = [*self.head], ["---"] * len(self.head)
        lines = [*head, *([number.text for number in line] for line in self.lines)]
        body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        return f"### {self.title}\n\n{self.says}\n\n{body}\n{self.caveat}\n"


class Grid:
    """The cells that there should be, and those that there are."""

    def __init__(self, config: DemoConfig, grid: Sequence[Cell], found: Found):
        self.config, self.cells, self.found = config, grid, found

    def cells_of(self, row: str, stage: str) -> list[Cell]:
        """One for each seed."""
        return [cell for cell in self.cells if (cell.row, cell.stage) == (row, stage)]

    def places(self) -> list[tuple[str, str]]:
        """(row, stage), as the grid has them."""
        return list(dict.fromkeys((cell.row, cell.stage) for cell in self.cells))

    def named(self, place: tuple[str, str]) -> str:
        """With how many of its seeds there are, if some are missing."""
        there, of = sum(cell in self.found for cell in self.cells_of(*place)), len(self.cells_of(*place))
        return named(place) + (f" ({there} of {of} seeds)" if 0 < there < of else "")

    def last(self, rows: Callable[[str], bool] = lambda _: True) -> list[tuple[str, str]]:
        """Of every row that is wanted and has pictures, the last stage."""
        stages = {row: stage for row, stage in self.places() if row != TEXT}  # a row's last one comes last
        return [(row, stage) for row, stage in stages.items() if rows(row)]

    def values(self, place: tuple[str, str], read: Callable[[Mapping[str, Any]], Any]) -> list[tuple[Cell, Any]]:
        """What `read` finds in the cells of a place that are there; None is nothing."""
        found = [(cell, read(self.found[cell])) for cell in self.cells_of(*place) if cell in self.found]
        return [(cell, value) for cell, value in found if value is not None]

    def mean(self, place: tuple[str, str], read: Callable[[Mapping[str, Any]], Any], form: str = "{:.2f}") -> Number:
        """Over seeds: `mean (lowest to highest)`, of one seed its value."""
        if not any(cell in self.found for cell in self.cells_of(*place)):
            return Number(MISSING)
        values = [value for _, value in self.values(place, read)]
        if not values:
            return Number(NONE)
        mean = form.format(sum(values) / len(values))
        if len(values) == 1:
            return Number(mean)
        return Number(mean, f"({form.format(min(values))} to {form.format(max(values))})")

    def rate(self, place: tuple[str, str], key: str, rate: str, scene: str = "") -> Number:
        """A rate of the answers `key`: of one seed with its 95 % Wilson interval, of several as `mean`."""

        def read(cell: Mapping[str, Any]) -> dict[str, Any] | None:
            if key not in cell["rates"]:  # nobody was asked
                return None
            found = cell["rates"][key][rate]
            found = found[scene] if scene else found
            return None if found["value"] is None else found

        known = self.values(place, read)
        shown = self.mean(place, lambda cell: (read(cell) or {}).get("value"))
        if len(known) == 1:
            (_, one) = known[0]
            shown = Number(shown.value, f"[{one['low']:.2f}, {one['high']:.2f}]")
        return dataclasses.replace(shown, sources=tuple((cell, key) for cell, _ in known))

    def rates(self, places: Iterable[tuple[str, str]], columns: Mapping[str, tuple[str, ...]]) -> list[list[Number]]:
        return [
            [Number(self.named(place)), *(self.rate(place, *column) for column in columns.values())] for place in places
        ]


def named(place: tuple[str, str]) -> str:
    row, stage = place
    return f"`{row}`" + (f" after {stage}" if stage else "")
