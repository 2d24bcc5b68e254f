"""What the paper claims, and what a grid of cells says to it: a table for each claim."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tga_jax.demo import attacks, baselines, mechanism
from tga_jax.demo.cells import BEGUN, TEXT
from tga_jax.demo.config import DemoConfig
from tga_jax.demo.grid import MISSING, Grid, Number, Table
from tga_jax.demo.world.concepts import SCENES
from tga_jax.demo.world.language import LANGUAGES

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
_SEEN = {
    f"{said}{which}": (f"{split}{BEGUN}", rate)
    for said, split in (("", "test"), ("unseen hand, ", "test_hand"), ("two things, ", "test_two"))
    for which, rate in (("named", "harmful_seen"), ("refused of these", "dsr_of_seen"))
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
    inside = [mechanism.alignment(grid), mechanism.patching(grid)]
    return [*_of_rates(grid), *inside, *_under_attack(grid), *_of_variants(grid), _text_safety(grid), _costs(grid)]


def _of_rates(grid: Grid) -> list[Table]:
    last = grid.last()
    of_scenes = {scene: ("test", "image_dsr_by_scene", scene) for scene in SCENES}
    return [
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
        *_seen(grid),
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
    ]


def _seen(grid: Grid) -> list[Table]:
    """If answers are begun in this world's language."""
    if not LANGUAGES[grid.config.language].begun:
        return []
    places = [place for place in grid.places() if place[0] != TEXT]
    return [
        Table(
            "seen",
            "Refused of what is seen",
            "Question: of the harmful pictures that a model can name, how many does it refuse? What it takes for "
            f"something else is a matter of vision. Answers are begun for it (“{LANGUAGES[grid.config.language].begun} "
            "…”), so that it has to go on.",
            "A model that would rather refuse may name less than it sees.",
            ["row", *_SEEN],
            grid.rates(places, _SEEN),
        )
    ]


def _under_attack(grid: Grid) -> list[Table]:
    core = grid.last(lambda row: row in grid.config.core_rows)
    return [
        Table(
            "attacks",
            "Attacks",
            "Claim: it holds under role play, examples in context, words drawn as a picture, and changed pictures.",
            "A tower that never saw letters cannot read the typographic pictures, so nothing is shown for or against "
            "the claim there. The second line of a row says how many harmless pictures the same attack made it refuse.",
            ["row", "none", *attacks.ATTACKS],
            [
                [Number(f"{grid.named(place)}{said}"), *(grid.rate(place, key, rate) for key in _attacked())]
                for place in core
                for said, rate in (("", "image_dsr"), (", harmless", "over_refusal"))
            ],
        ),
        Table(
            "baselines",
            "What users would do otherwise",
            "Question: what do defences without training reach on the ordinarily aligned model, and what the safety "
            "training on pictures that TGA does without?",
            "Strength and threshold of detector, shift and steering are chosen on other pictures and captions than "
            "those that are counted here (`demo/baselines.py`).",
            ["defence", "image DSR", "naming", "over-refusal", "look-alikes refused"],
            _baselines(grid),
        ),
    ]


def _of_variants(grid: Grid) -> list[Table]:
    """Controls, and wrong captions, if the grid has such rows."""
    config, last, found = grid.config, grid.last(), []
    noisy = [row for row, _ in last if _noise(config, row)]
    controls = [row for row, _ in last if _controls(config, row)]
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
    return found


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
            lines.append([Number(grid.named(place) + said), *(grid.rate(place, key, rate) for rate in columns)])
    tuned = grid.last(lambda row: any(s.task == "tuned" for s in grid.config.rows[row].stages.values()))
    for place in (*tuned, *grid.last(lambda row: row in grid.config.core_rows and row not in baselines.ROWS)):
        lines.append([Number(grid.named(place)), *(grid.rate(place, "test", rate) for rate in columns)])
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
        "Refusals are taught in text only.",
        ["texts", "DSR", "over-refusal", *SCENES],
        lines,
    )


def _projector(cell: Mapping[str, Any]) -> float | None:
    """Million parameters; the text model has none."""
    count = cell["parameters"].get("projector")
    return None if count is None else count / 1e6


def _costs(grid: Grid) -> Table:
    reads: dict[str, tuple[Callable[[Mapping[str, Any]], Any], str]] = {
        "training, minutes": (lambda cell: cell["seconds"]["training"] / 60, "{:.1f}"),
        "measuring, minutes": (lambda cell: cell["seconds"]["measuring"] / 60, "{:.1f}"),
        "peak memory, GiB": (lambda cell: cell["peak_memory_bytes"] / 2**30, "{:.1f}"),
        "projector, million parameters": (lambda cell: _projector(cell), "{:.1f}"),
    }
    lines = []
    for place in grid.places():
        devices = sorted({cell["device"] for _, cell in grid.values(place, lambda cell: cell)})
        numbers = [grid.mean(place, read, form) for read, form in reads.values()]
        lines.append([Number(grid.named(place)), *numbers, Number(", ".join(devices) or MISSING)])
    return Table(
        "costs",
        "What it costs",
        "Question: what do the guide's second pass and the fit cost?",
        "Minutes of a cell are those of what it was the first to need: the first one of a seed trains the text model, "
        "the first one with pictures CLIP, and a stage that two rows share is paid for once. An accelerator's peak "
        "memory is that of the run until then.",
        ["row", *reads, "device"],
        lines,
    )


def headline(grid: Grid) -> str:
    """One sentence with the rates of the core rows, for the top of the page."""
    shown = []
    for place in grid.last(lambda row: row in grid.config.core_rows):
        dsr, naming = (grid.rate(place, "test", rate) for rate in ("image_dsr", "benign_naming"))
        shown.append(f"{grid.named(place)} {dsr.text}, naming {naming.text}")
    text = next((grid.rate(place, TEXT, "text_dsr") for place in grid.places() if place[0] == TEXT), Number(MISSING))
    return f"Refused of harmful captions as text: {text.text}. Of the same as pictures: {'; '.join(shown)}."
