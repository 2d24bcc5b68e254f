"""What the paper claims, and what a grid of cells says to it: a table for each claim.

Every number knows the cell and the answers that it was counted from, so that a page can lead there.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from tga_jax.demo import attacks, baselines
from tga_jax.demo.cells import TEXT, Cell
from tga_jax.demo.config import DemoConfig
from tga_jax.demo.world.concepts import SCENES

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

    def seeds_of(self, row: str, stage: str) -> list[Cell]:
        return [cell for cell in self.cells if (cell.row, cell.stage) == (row, stage)]

    def places(self) -> list[tuple[str, str]]:
        """(row, stage), as the grid has them."""
        return list(dict.fromkeys((cell.row, cell.stage) for cell in self.cells))

    def last(self, rows: Callable[[str], bool] = lambda _: True) -> list[tuple[str, str]]:
        """Of every row that is wanted and has pictures, the last stage."""
        stages = {row: stage for row, stage in self.places() if row != TEXT}  # a row's last one comes last
        return [(row, stage) for row, stage in stages.items() if rows(row)]

    def values(self, place: tuple[str, str], read: Callable[[Mapping[str, Any]], Any]) -> list[tuple[Cell, Any]]:
        """What `read` finds in the cells of a place that are there; None, and a missing key, is nothing."""
        found = []
        for cell in self.seeds_of(*place):
            if cell in self.found:
                try:
                    value = read(self.found[cell])
                except KeyError:
                    continue
                if value is not None:
                    found.append((cell, value))
        return found

    def mean(self, place: tuple[str, str], read: Callable[[Mapping[str, Any]], Any], form: str = "{:.2f}") -> Number:
        """Over seeds: `mean (lowest to highest)`, of one seed its value."""
        if not any(cell in self.found for cell in self.seeds_of(*place)):
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
        return [[Number(named(place)), *(self.rate(place, *column) for column in columns.values())] for place in places]


def named(place: tuple[str, str]) -> str:
    row, stage = place
    return f"`{row}`" + (f" after {stage}" if stage else "")


# Heading -> answers, rate.
_MAIN = {
    "text DSR": (TEXT, "text_dsr"),
    "image DSR": ("test", "image_dsr"),
    "naming": ("test", "benign_naming"),
    "colour": ("test", "benign_color"),
    "over-refusal": ("test", "over_refusal"),
    "look-alikes refused": ("test", "look_alike_over_refusal"),
    "harmful named": ("test", "harmful_naming"),
}
_BEYOND = {
    "new questions": ("test+new", "image_dsr"),
    "new colours": ("test_pairs", "image_dsr"),
    "unseen hand": ("test_hand", "image_dsr"),
    "two things": ("test_two", "image_dsr"),
    "retrieved text in the prompt": ("test+retrieved", "image_dsr"),
}
_TASKS = {
    "naming": ("test", "benign_naming"),
    "colour": ("test", "benign_color"),
    "naming, new questions": ("test+new", "benign_naming"),
    "naming, new colours": ("test_pairs", "benign_naming"),
    "naming both of two things": ("test_two", "benign_naming"),
    "naming, unseen hand": ("test_hand", "benign_naming"),
}
_HARMLESS = {
    "pictures": ("test", "over_refusal"),
    "look-alikes": ("test", "look_alike_over_refusal"),
    "new questions": ("test+new", "over_refusal"),
    "two things": ("test_two", "over_refusal"),
    "unseen hand": ("test_hand", "over_refusal"),
    "retrieved text in the prompt": ("test+retrieved", "over_refusal"),
    "captions": (TEXT, "text_over_refusal"),
}


def _noise(config: DemoConfig, row: str) -> float:
    return max(stage.wrong_captions for stage in config.rows[row].stages.values())


def _controls(config: DemoConfig, row: str) -> bool:
    stages = config.rows[row].stages.values()
    return any(s.shown != "all" or s.guided != "all" or s.wrong_guides for s in stages)


def _same(config: DemoConfig, rows: Sequence[str]) -> Callable[[str], bool]:
    """The rows, and the ones that they are variants of: `tga_noise` is one of `tga`."""
    plain = {name for name in config.rows if any(row.startswith(f"{name}_") for row in rows)}
    return lambda row: row in rows or (row in plain and not _noise(config, row) and not _controls(config, row))


def tables(grid: Grid) -> list[Table]:
    """One for each claim, in the order of the page."""
    config, last = grid.config, grid.last()
    noisy = [row for row, _ in last if _noise(config, row)]
    controls = [row for row, _ in last if _controls(config, row)]
    core = grid.last(lambda row: row in config.core)
    of_scenes = {scene: ("test", "image_dsr_by_scene", scene) for scene in SCENES}
    found = [
        Table(
            "result",
            "Does text safety carry over to pictures?",
            "Claim: a decoder that refuses harmful text does not refuse the same as a picture after ordinary alignment "
            "(`base`), and does after text-guided alignment, with no refusal to a picture in any training.",
            "Text DSR is the upper line: transfer can be no better. A picture that is misread, and so described as "
            "something else, counts against DSR; “harmful named” is what was seen and described.",
            ["row", *_MAIN],
            grid.rates(grid.places(), _MAIN),
        ),
        Table(
            "scenes",
            "By scene, as text and as a picture",
            "Claim: it holds for each kind of harm.",
            "Few pictures a scene: the intervals are wide. “explosives” stands for the paper's pornography, which has "
            "no emoji.",
            ["row", *SCENES],
            [
                *[
                    [Number("captions as text"), *(grid.rate(place, TEXT, "text_dsr_by_scene", s) for s in SCENES)]
                    for place in grid.places()
                    if place[0] == TEXT
                ],
                *grid.rates(last, of_scenes),
            ],
        ),
        Table(
            "beyond",
            "Beyond what was trained",
            "Claim: DSR holds for questions, colours, artists and scenes that no training had.",
            "With retrieved text in the prompt, harmful words stand there as text: `base` in that column is what these "
            "words do by themselves.",
            ["row", *_BEYOND],
            grid.rates(last, _BEYOND),
        ),
        Table(
            "tasks",
            "Nothing lost",
            "Claim: what the model can do otherwise stays as it was.",
            "Naming things and colours, alone and in pairs, is all that these pictures can ask; nothing is said about "
            "reasoning.",
            ["row", *_TASKS],
            grid.rates(last, _TASKS),
        ),
        Table(
            "harmless",
            "Harmless things refused",
            "Claim: what is harmless is answered, and so are look-alikes of what is not.",
            "Every other scene of two things here shows nothing harmful.",
            ["row", *_HARMLESS],
            grid.rates(last, _HARMLESS),
        ),
        _alignment(grid),
        _patching(grid),
        Table(
            "attacks",
            "Attacks",
            "Claim: it holds under role play, examples in context, words drawn as a picture, and changed pictures.",
            "A tower that never saw letters cannot read the typographic pictures, so nothing is shown for or against "
            "the claim there. The second line of a row says how many harmless pictures the same attack made it refuse.",
            ["row", "none", *attacks.ATTACKS],
            [
                [Number(f"{named(place)}{said}"), *(grid.rate(place, key, rate) for key in _attacked())]
                for place in core
                for said, rate in (("", "image_dsr"), (", harmless", "over_refusal"))
            ],
        ),
        Table(
            "baselines",
            "What users would do otherwise",
            "Question: what do defences without training reach on the ordinarily aligned model, and what the safety "
            "training on pictures that TGA does without?",
            "Strength and threshold of the last three are chosen on other pictures and captions than those that are "
            "counted here (`demo/baselines.py`).",
            ["defence", "image DSR", "naming", "over-refusal", "look-alikes refused"],
            _baselines(grid),
        ),
    ]
    if controls:
        found.append(
            Table(
                "controls",
                "What it needs: controls",
                "Question: must the guide see harmful pictures, must they be in training at all, must it see the "
                "right words?",
                "Three different claims: harmful pictures guided (the plain rows), captioned but not guided, absent.",
                ["row", "what is changed", *list(_MAIN)[1:]],
                _with_notes(grid, grid.last(_same(config, controls)), dict(list(_MAIN.items())[1:])),
            )
        )
    if noisy:
        found.append(
            Table(
                "noise",
                "Wrong captions in training",
                "Claim: a tenth of wrong captions does little harm.",
                "A wrong caption here is another picture's, for all that is said of the picture.",
                ["row", "what is changed", *list(_MAIN)[1:]],
                _with_notes(grid, grid.last(_same(config, noisy)), dict(list(_MAIN.items())[1:])),
            )
        )
    return [*found, _text_safety(grid), _costs(grid)]


def _with_notes(grid: Grid, places: Sequence[tuple[str, str]], columns: Mapping[str, tuple[str, ...]]):
    lines = grid.rates(places, columns)
    return [
        [line[0], Number(grid.config.rows[row].note), *line[1:]] for (row, _), line in zip(places, lines, strict=True)
    ]


def _attacked() -> list[str]:
    return ["test", *(f"attack+{name}" for name in attacks.ATTACKS)]


def _baselines(grid: Grid) -> list[list[Number]]:
    columns = ("image_dsr", "benign_naming", "over_refusal", "look_alike_over_refusal")
    lines = []
    for place in grid.last(lambda row: row in baselines.ROWS):
        for said, key in (("", "test"), *((f", {name}", f"baseline+{name}") for name in baselines.BASELINES)):
            lines.append([Number(named(place) + said), *(grid.rate(place, key, rate) for rate in columns)])
    tuned = grid.last(lambda row: any(s.task == "tuned" for s in grid.config.rows[row].stages.values()))
    for place in (*tuned, *grid.last(lambda row: row in grid.config.core and row not in baselines.ROWS)):
        lines.append([Number(named(place)), *(grid.rate(place, "test", rate) for rate in columns)])
    return lines


def _text_safety(grid: Grid) -> Table:
    lines = []
    for place in grid.places():
        if place[0] == TEXT:
            for said, key in (
                ("captions of the tests", TEXT),
                ("new phrasings of what was taught", f"{TEXT}+phrasings"),
                ("taught phrasings of new things", f"{TEXT}+things"),
            ):
                lines.append(
                    [
                        Number(said),
                        *(grid.rate(place, key, rate) for rate in ("text_dsr", "text_over_refusal")),
                        *(grid.rate(place, key, "text_dsr_by_scene", scene) for scene in SCENES),
                    ]
                )
    return Table(
        "text",
        "How far text safety goes by itself",
        "Question: what does the text model, before any picture, refuse of what it was never taught?",
        "Taught in text only, to a model that refuses none of this as it is shipped.",
        ["texts", "DSR", "over-refusal", *SCENES],
        lines,
    )


def _costs(grid: Grid) -> Table:
    reads: dict[str, tuple[Callable[[Mapping[str, Any]], Any], str]] = {
        "training, minutes": (lambda cell: cell["seconds"]["training"] / 60, "{:.1f}"),
        "measuring, minutes": (lambda cell: cell["seconds"]["measuring"] / 60, "{:.1f}"),
        "peak memory, GiB": (lambda cell: cell["peak_memory_bytes"] / 2**30, "{:.1f}"),
        "projector, million parameters": (lambda cell: cell["parameters"]["projector"] / 1e6, "{:.1f}"),
    }
    lines = []
    for place in grid.places():
        devices = sorted({cell["device"] for _, cell in grid.values(place, lambda cell: cell)})
        numbers = [grid.mean(place, read, form) for read, form in reads.values()]
        lines.append([Number(named(place)), *numbers, Number(", ".join(devices) or MISSING)])
    return Table(
        "costs",
        "What it costs",
        "Question: what do the guide's second pass and the fit cost?",
        "Minutes of a cell are those of what it was the first to need: the first one of a seed trains the text model, "
        "the first one with pictures CLIP, and a stage that two rows share is paid for once.",
        ["row", *reads, "device"],
        lines,
    )


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


def correlations(grid: Grid) -> dict[str, tuple[float, float, int]]:
    """How alignment is measured -> (Spearman's rank correlation with image DSR over the cells, p, cells)."""
    found = {}
    for name, points in alignments(grid).items():
        aligned, dsr = [p[1] for p in points], [p[2] for p in points]
        if len(points) > 2 and len(set(aligned)) > 1 and len(set(dsr)) > 1:
            result: Any = scipy.stats.spearmanr(aligned, dsr)
            found[name] = (float(result.statistic), float(result.pvalue), len(points))
    return found


def _alignment(grid: Grid) -> Table:
    def at_refusal(place: tuple[str, str], read: Callable[[Mapping[str, Any], Sequence[int]], float]) -> Number:
        """At the layers of refusal of each seed's text model."""
        by_seed = {id(grid.found[c]): refusal_layers(grid, c.seed) for c in grid.seeds_of(*place) if c in grid.found}
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
        lines.append([Number(named(place)), span(place, "refusal"), span(place, "by_difference"), *cosines])
    found = correlations(grid)
    told = [f"{name}: {rho:+.2f} (n = {n}, p = {p:.2g})" for name, (rho, p, n) in found.items()]
    said = f" Rank correlation of image DSR over the cells with {'; '.join(told)}." if told else ""
    names = list(_MEASURES)
    return Table(
        "alignment",
        "Alignment at the layers of refusal",
        "Claim: refusal is brought about at a few layers, and how near a picture's states lie to its caption's there "
        f"decides whether it is refused.{said}",
        "Cells of one seed share a text model, and stages of a row follow from each other, so p is too small. A raw "
        "cosine says little: another caption's is as high.",
        ["row", "refusal, log ratio", "refusal, difference", names[0], "cos(I, another's C)", *names[1:]],
        lines,
    )


def _patching(grid: Grid) -> Table:
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
        [[Number(named(p)), *(grid.mean(p, read, form) for read, form in reads.values())] for p in places],
    )


def headline(grid: Grid) -> str:
    """One sentence with the rates of the core rows, for the top of the page."""
    shown = []
    for place in grid.last(lambda row: row in grid.config.core):
        dsr, naming = (grid.rate(place, "test", rate) for rate in ("image_dsr", "benign_naming"))
        shown.append(f"{named(place)} {dsr.text}, naming {naming.text}")
    text = next((grid.rate(place, TEXT, "text_dsr") for place in grid.places() if place[0] == TEXT), Number(MISSING))
    return f"Refused of harmful captions as text: {text.text}. Of the same as pictures: {'; '.join(shown)}."
