"""The cells of a grid: each is one row of one seed after one of its stages, trained, measured and kept as a file.

A cell's file holds its rates, every raw answer behind them and what it cost, but no weights, so that a grid may be
continued on another machine, and reported where nothing was trained.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import json
import re
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import tga_jax
from tga_jax.demo import attacks, baselines, measure, models, rates, trainings
from tga_jax.demo.config import DemoConfig, World
from tga_jax.demo.world import plan
from tga_jax.demo.world.language import Language
from tga_jax.demo.world.plan import EmojiScenesConfig
from tga_jax.errors import UserError
from tga_jax.workdir import replacing

_LOOKED_INTO, _PATCHED = 42, 14  # captions
_FORMAT = 3  # of a cell's file: rises when it holds something else
BEGUN = "+begun"  # of what was asked with the answer begun for the model
TEXT = "text"  # the row of the text model before any picture, which has no stages


@dataclasses.dataclass(frozen=True)
class Cell:
    seed: int
    row: str
    stage: str = ""

    @property
    def name(self) -> str:
        return f"seed{self.seed}-{self.row}" + (f"-{self.stage}" if self.stage else "")

    def file(self, folder: Path) -> Path:
        return folder / f"{self.name}.json.gz"


def of_grid(config: DemoConfig, seeds: tuple[int, ...], rows: tuple[str, ...]) -> Iterator[Cell]:
    """In the order in which they are made: by seed, each with the rows' own order. Raises UserError for no such row."""
    for row in rows:
        if row not in config.rows:
            raise UserError(f"--rows: {row!r}, expected some of {', '.join(config.rows)}")
    for seed in seeds:
        yield Cell(seed, TEXT)
        for row in rows:
            for stage in sorted(config.rows[row].stages):
                yield Cell(seed, row, stage)


def described(config: DemoConfig, cell: Cell) -> str:
    """A hash of all that a cell depends on, without the rows and stages that it does not."""
    rows = {}
    if cell.row != TEXT:
        row = config.rows[cell.row]
        stages = {name: stage for name, stage in row.stages.items() if name <= cell.stage}
        rows = {cell.row: dataclasses.asdict(row) | {"stages": {n: dataclasses.asdict(s) for n, s in stages.items()}}}
        rows[cell.row].pop("note")
        if not row.patches:  # as before there were any
            rows[cell.row].pop("patches")
    fields = {**dataclasses.asdict(config), "seed": cell.seed, "rows": rows}
    sees = cell.row != TEXT and config.rows[cell.row].patches
    without = {"name", "note", "core", *(() if sees else ("patches",))}
    fields = {name: value for name, value in fields.items() if name not in without}
    fields["core"] = cell.row in config.core_rows  # whose cells hold more answers
    text = json.dumps([tga_jax.__version__, _FORMAT, fields], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stored(folder: Path, config: DemoConfig, cell: Cell) -> dict[str, Any] | None:
    """What is kept of the cell; None if there is nothing, or the cell of another config."""
    path = cell.file(folder)
    if not path.exists():
        return None
    try:
        found = json.loads(gzip.decompress(path.read_bytes()))
        same = found["config"] == described(config, cell)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove it to make the cell again") from error
    return found if same else None


def store(folder: Path, cell: Cell, found: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(cell.file(folder)) as aside:
        # Without a time of its own, so that equal cells are equal files.
        aside.write_bytes(gzip.compress(json.dumps(found, sort_keys=True).encode(), mtime=0))


def _answers(
    world: World, cell: Cell, model: Any, attachments: Path | None
) -> tuple[dict[str, list[rates.Answer]], dict[str, Any]]:
    """By "text", "text+things", "text+phrasings" and, of a row with pictures, the keys of `measure.key`, with "+begun"
    where answers are begun for the model: all of them after its last stage, and then, of a core row, "attack+" and the
    names of `attacks.ATTACKS`, and, of the rows that they are tried on, "baseline+" and those of `baselines.BASELINES`,
    with the settings that were chosen."""
    speech, generate = world.language, measure.generator(model, world.config.new_tokens)
    asked = measure.measured(world)
    last = cell.row == TEXT or cell.stage == max(world.config.rows[cell.row].stages)
    if not last:
        asked = tuple(m for m in asked if m[0] == "test" and not m[1])
    held_out = {
        split: measure.items(world, split, attachments) for split in dict.fromkeys(split for split, *_ in asked)
    }
    shown = [item for found in held_out.values() for item in found]
    answers = {TEXT: rates.ask_text(speech, generate, shown)}
    known = plan.concepts(EmojiScenesConfig(**world.scenes))
    answers |= {f"{TEXT}+{name}": found for name, found in rates.ask_new_text(speech, generate, known).items()}
    if attachments is None:
        return answers, {}
    for split, retrieved, new in asked:
        answers[measure.key(split, retrieved, new)] = rates.ask(speech, generate, held_out[split], retrieved, new)
    if speech.begun:
        goes_on = measure.generator(model, world.config.new_tokens, speech.begun)
        begun = {split: items for split, items in held_out.items() if split in measure.SEEN}
        answers |= {f"{split}{BEGUN}": rates.ask_begun(speech, goes_on, items) for split, items in begun.items()}
    if last and cell.row in world.config.core_rows and speech.role_play:
        found = attacks.ask(speech, generate, held_out["test"], cell.seed)
        answers |= {f"attack+{name}": said for name, said in found.items()}
    settings: dict[str, Any] = {}
    if last and cell.row in baselines.ROWS and speech.free:
        found, settings = baselines.ask(world, model, held_out["test"], attachments)
        answers |= {f"baseline+{name}": said for name, said in found.items()}
    return answers, settings


_STATUS, _FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _forget_peak_memory() -> None:
    with contextlib.suppress(OSError):  # of Linux, where it may be written; elsewhere the peak is that of the whole run
        _FORGET.write_text("5")


def _peak_memory() -> int:
    """Bytes: of the accelerator, or of this process since the last call of `_forget_peak_memory`."""
    if statistics := jax.devices()[0].memory_stats():
        return int(statistics["peak_bytes_in_use"])
    if _STATUS.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def rates_of(speech: Language, answers: Mapping[str, Sequence[rates.Answer]]) -> dict[str, Any]:
    """By the keys of the answers."""
    found = {}
    for key, said in answers.items():
        if key.startswith(TEXT):
            found[key] = rates.text_rates(said)
        elif key.endswith(BEGUN):
            found[key] = rates.seen_rates(said, answers[key.removesuffix(BEGUN)])
        else:
            found[key] = rates.image_rates(speech, said)
    return found


def make(world: World, cell: Cell) -> dict[str, Any]:
    """Trains what is missing of a cell, and measures it."""
    started = time.monotonic()
    _forget_peak_memory()
    text = trainings.train_text(world)
    parts, attachments = {"llm": text}, None
    if cell.row != TEXT:
        clip = trainings.train_clip(world, cell.row)
        attachments = trainings.attach(world, clip)
        parts = {"clip": clip, **trainings.train_row(world, cell.row, text, attachments, cell.stage)}
    trained = time.monotonic() - started
    model = models.load(world, "" if cell.row == TEXT else cell.row, parts)
    with world.shows(f"{cell.name}: measured"):
        held_out = measure.items(world, "test", attachments)
        answers, settings = _answers(world, cell, model, attachments)
        inside = measure.inside(world, model, held_out, _LOOKED_INTO, every=3, few=_PATCHED)
    speech = world.language
    return {
        "config": described(world.config, cell),
        **dataclasses.asdict(cell),
        "rates": rates_of(speech, answers),
        "answers": {name: [dataclasses.asdict(answer) for answer in found] for name, found in answers.items()},
        "settings": settings,
        "inside": dataclasses.asdict(inside),
        "seconds": {"training": round(trained, 1), "measuring": round(time.monotonic() - started - trained, 1)},
        "parameters": {part: sum(x.size for x in jax.tree.leaves(tree)) for part, tree in model.params.items()},
        "peak_memory_bytes": _peak_memory(),
        "device": str(jax.devices()[0].device_kind),
    }
