"""What happens inside, from a grid of cells: alignment at the layers of refusal, and patching."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from tga_jax.demo.cells import TEXT, Cell
from tga_jax.demo.grid import MISSING, NONE, Grid, Number, Table

_ANSWERS = 0.05  # over-refusal, of a cell that does not refuse whatever it is shown


def _at(curve: Sequence[float], layers: Sequence[int]) -> float:
    return float(np.mean([curve[layer] for layer in layers]))


def refusal_layers(grid: Grid, seed: int) -> list[int]:
    """The layers from where the text model's refusal starts to where it ends; none if that cell is not there."""
    refusal = grid.found.get(Cell(seed, TEXT), {}).get("inside", {}).get("refusal")
    if not refusal or refusal["start"] is None:
        return []
    return list(range(refusal["start"], refusal["end"] + 1))


def alignments(grid: Grid) -> dict[str, list[tuple[Cell, float, float]]]:
    """How a cell's alignment is measured -> (cell, its alignment at the layers of refusal, its image DSR)."""
    found: dict[str, list[tuple[Cell, float, float]]] = {name: [] for name in _MEASURES}
    for cell in grid.cells:
        layers = refusal_layers(grid, cell.seed)
        if cell not in grid.found or cell.row == TEXT or not layers:
            continue
        dsr = grid.found[cell]["rates"]["test"]["image_dsr"]["value"]
        for name, read in _MEASURES.items():
            found[name].append((cell, read(grid.found[cell]["inside"], layers), dsr))
    return found


def _margin(inside: Mapping[str, Any], layers: Sequence[int]) -> float:
    pair = inside["cosine"]["centred"]
    return _at(pair["matched"], layers) - _at(pair["mismatched"], layers)


_MEASURES: dict[str, Callable[[Mapping[str, Any], Sequence[int]], float]] = {
    "cos(I, C)": lambda inside, layers: _at(inside["cosine"]["raw"]["matched"], layers),
    "cos(I, C), centred": lambda inside, layers: _at(inside["cosine"]["centred"]["matched"], layers),
    "centred, own less another's caption": _margin,
    "tokens nearest to the harmful word": lambda inside, layers: _at(
        inside["wordlike"]["tokens nearest to the harmful word"], layers
    ),
}


def correlations(grid: Grid, most: float = 1.0) -> dict[str, tuple[float, float, int]]:
    """How alignment is measured -> (Spearman's rank correlation with image DSR over the cells, p, cells).

    most: over-refusal of the cells that count.
    """
    found = {}
    for name, points in alignments(grid).items():
        points = [p for p in points if grid.found[p[0]]["rates"]["test"]["over_refusal"]["value"] <= most]
        aligned, dsr = [p[1] for p in points], [p[2] for p in points]
        if len(points) > 2 and len(set(aligned)) > 1 and len(set(dsr)) > 1:
            result: Any = scipy.stats.spearmanr(aligned, dsr)
            found[name] = (float(result.statistic), float(result.pvalue), len(points))
    return found


def alignment(grid: Grid) -> Table:
    def at_refusal(place: tuple[str, str], read: Callable[[Mapping[str, Any], Sequence[int]], float]) -> Number:
        """At the layers of refusal of each seed's text model."""
        by_seed = {id(grid.found[c]): refusal_layers(grid, c.seed) for c in grid.cells_of(*place) if c in grid.found}
        return grid.mean(place, lambda cell: read(cell["inside"], layers) if (layers := by_seed[id(cell)]) else None)

    def span(place: tuple[str, str], which: str) -> Number:
        ends = [
            grid.mean(place, lambda cell, end=end: cell["inside"][which][end], "{:.0f}").value
            for end in ("start", "end")
        ]
        return Number(MISSING if MISSING in ends else f"{ends[0]} to {ends[1]}")

    lines = []
    for place in grid.places():
        cosines = [Number(NONE)] * (len(_MEASURES) + 1)
        if place[0] != TEXT:
            cosines = [at_refusal(place, read) for read in _MEASURES.values()]
            other = lambda inside, layers: _at(inside["cosine"]["raw"]["mismatched"], layers)  # noqa: E731
            cosines.insert(1, at_refusal(place, other))
        lines.append([Number(grid.named(place)), span(place, "refusal"), span(place, "by_difference"), *cosines])
    said = ""
    for over, most in (("all cells", 1.0), (f"those that refuse at most {_ANSWERS} of harmless pictures", _ANSWERS)):
        told = [f"{name}: {rho:+.2f} (n = {n}, p = {p:.2g})" for name, (rho, p, n) in correlations(grid, most).items()]
        said += f" Rank correlation of image DSR over {over} with {'; '.join(told)}." if told else ""
    names = list(_MEASURES)
    return Table(
        "alignment",
        "Alignment at the layers of refusal",
        "Claim: refusal is brought about at a few layers, and how near a picture's states lie to its caption's there "
        f"decides whether it is refused.{said}",
        "Cells of one seed share a text model, and stages of a row follow from each other, so p is too small. A cell "
        "that refuses harmless pictures too may refuse whatever it cannot read; where to leave cells out was decided "
        "when their rates were known. A raw cosine says little by itself; that with another's caption stands beside "
        "it.",
        ["row", "refusal, log ratio", "refusal, difference", names[0], "cos(I, another's C)", *names[1:]],
        lines,
    )


def patching(grid: Grid) -> Table:
    """From the curves of `analysis.patching`: shares refused."""

    def first(curves: Mapping[str, Any], kind: str) -> float:
        return curves["patching"][kind][0]

    def half(inside: Mapping[str, Any], kind: str, last: bool) -> int | None:
        """The last block (or the first) at which more than half of what can be won is won."""
        curve = np.array(inside["patching"][kind])
        middle = (curve[:-1].max() + curve[-1]) / 2
        over = np.flatnonzero(curve[:-1] > middle)
        return None if curve[:-1].max() <= curve[-1] else int(inside["patched_at"][over[-1 if last else 0]])

    reads: dict[str, tuple[Callable[[Mapping[str, Any]], Any], str]] = {
        "as it is": (lambda cell: cell["inside"]["patching"]["residual"][-1], "{:.2f}"),
        "the picture's inputs are words": (lambda cell: first(cell["inside"], "residual"), "{:.2f}"),
        "its keys": (lambda cell: first(cell["inside"], "key"), "{:.2f}"),
        "its values": (lambda cell: first(cell["inside"], "value"), "{:.2f}"),
        "the picture's states, up to block": (lambda cell: half(cell["inside"], "residual", True), "{:.0f}"),
        "the question's states, from block": (lambda cell: half(cell["inside"], "instruction", False), "{:.0f}"),
    }
    places = [place for place in grid.places() if place[0] != TEXT]
    return Table(
        "patching",
        "Which blocks bring the refusal",
        "Causal test: the states of the same prompt in words, which is refused, are put in place of the picture's. "
        "Shares are of harmful pictures whose next token is a refusal's first.",
        "“Up to block” is the last block at which taking over the picture's states still wins half of what can be won, "
        "“from block” the first at which the states of the question after it do.",
        ["row", *reads],
        [[Number(grid.named(p)), *(grid.mean(p, read, form) for read, form in reads.values())] for p in places],
    )
