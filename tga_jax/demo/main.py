"""The demo from config to report."""

import dataclasses
import hashlib
import json
import os
import resource
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import rich.console
import rich.table

from tga_jax.demo import lanes, measure, models, trainings, words
from tga_jax.demo.config import DemoConfig, World
from tga_jax.demo.figures import draw
from tga_jax.demo.rates import Answer
from tga_jax.demo.report import ROW_LABELS, headline
from tga_jax.demo.world import files
from tga_jax.demo.world.plan import EmojiScenesConfig
from tga_jax.errors import UserError
from tga_jax.report import terminal
from tga_jax.report.figures import TEXT_LABEL
from tga_jax.report.progress import Progress
from tga_jax.serve.start import EXAMPLES
from tga_jax.train import stopping
from tga_jax.workdir import claim, holds, read_json, working, write_json


def _commit() -> str | None:
    """The source's commit, "+changes" if the tree differs from it; None outside a checkout."""
    root = Path(__file__).parents[2]
    try:
        git = ["git", "-C", str(root)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changed.strip() else "")


def open_world(config: DemoConfig, parts: Path, bars: Progress) -> World:
    """Writes the tokenizers unless they are there. Raises UserError for scenes that cannot be drawn."""
    EmojiScenesConfig(**config.scenes)  # raises before anything is written
    world = World(config, parts, *words.of_world(config, parts), bars)
    world.model()  # raises for an unknown preset
    return world


@dataclasses.dataclass(frozen=True)
class _Text:
    """The text model before any picture."""

    folder: Path  # of its training
    rates: dict[str, Any]
    answers: list[Answer]
    inside: measure.Inside


@dataclasses.dataclass(frozen=True)
class _Row:
    measured: measure.Measured
    inside: measure.Inside


def _vision(world: World) -> tuple[Path, Path]:
    """The folders of CLIP's training and of what it sees in all pictures. Draws these, while the text model trains."""
    for split in world.splits:
        world.split(split)  # read once, for all lanes
    clip_dir = trainings.train_clip(world)
    return clip_dir, trainings.attach(world, clip_dir)


def _text_model(world: World, workdir: Path) -> _Text:
    folder = trainings.train_text(world)
    saved = models.save(world, "", workdir / "models" / "text-model", {"llm": folder})
    with world.shows("text model: measuring"):
        rates, answers = measure.measure_text(world, saved)
        inside = measure.inside(world, measure.load(saved), measure.items(world, "test"))
    return _Text(folder, rates, answers, inside)


def _row(world: World, workdir: Path, count: int, name: str, text_dir: Path, clip_dir: Path, attachments: Path) -> _Row:
    """count: of lanes."""
    trained = trainings.train_row(world, name, text_dir, attachments)
    folder = trained["projector"]
    parts = {"clip": clip_dir, **trained}
    saved = models.save(world, name, workdir / "models" / name, parts)

    def inside() -> measure.Inside:
        return measure.inside(world, measure.load(saved), measure.items(world, "test", attachments))

    # One row at a time: the first compiles what all use, and two at once would both do.
    with world.measuring, world.shows(f"{name}: measuring"):
        asked = partial(measure.measure_row, world, name, saved, folder, attachments)
        found: dict[str, Any] = lanes.run({"measured": asked, "inside": inside}, min(2, count))
    return _Row(**found)


def _table(results: dict[str, Any]) -> rich.table.Table:
    """Only the main columns, to fit 80 characters; the report has all."""
    shown = {"image_dsr": "DSR", "benign_naming": "naming", "benign_color": "colour", "over_refusal": "over-refusal"}
    caption = "Pictures: the split. R: whether retrieved text is in the prompt."
    table = terminal.table("row", "pictures", "R", *shown.values(), caption=caption)
    for row in results["rows"]:
        values = [row[field] for field in shown]
        cells = ["n/a" if v["value"] is None else f"{v['value']:.2f}" for v in values]
        table.add_row(
            ROW_LABELS.get(row["name"], row["name"]), row["split"], "yes" if row["retrieved_text"] else "no", *cells
        )
    return table


def default_workdir(config: DemoConfig) -> Path:
    """`runs/<name>-seed<seed>-<hash of the config>`: another config never meets another run's folder."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{config.name}-seed{config.seed}-{digest[:6]}"


def _train_and_measure(world: World, workdir: Path) -> tuple[_Text, dict[str, _Row]]:
    """The text model, and the rows in the order of tables and figures."""
    count = lanes.count()
    first: dict[str, Any] = lanes.run(
        {"vision": partial(_vision, world), "text": partial(_text_model, world, workdir)}, count
    )
    clip_dir, attachments = first["vision"]
    text: _Text = first["text"]
    names = sorted(world.config.rows, key=lambda n: ([*ROW_LABELS, n].index(n), n))
    rows = {n: partial(_row, world, workdir, count, n, text.folder, clip_dir, attachments) for n in names}
    return text, lanes.run(rows, count)


def write_pictures(config: DemoConfig, target: Path, parts: Path, console: rich.console.Console) -> None:
    """Writes the test pictures to the folder `target`, see `files.write`. Raises UserError."""
    with Progress(console) as bars:
        world = open_world(config, parts, bars)
        split = world.split("test")
        with world.shows("writing pictures"):
            files.write(split, world.language, target)
    console.print(f"written: {target}, {len(split)} pictures and their captions")


def run(config: DemoConfig, workdir: Path, parts: Path, console: rich.console.Console) -> None:
    """Trains what is missing in `parts`, measures, and writes results.json, report.html and examples/, pictures for
    `tga serve`, to `workdir`.

    Raises UserError if `workdir` holds another config's run, and what the trainings raise.
    """
    started = time.monotonic()
    if sees := [name for name, row in config.rows.items() if row.patches]:
        raise UserError(f"rows.{sees[0]}.patches: True, expected False here: all rows of `tga demo` see with one CLIP")
    described = dataclasses.asdict(config)
    results_path = workdir / "results.json"
    if holds(workdir, described) and results_path.exists():
        results = read_json(results_path, "the results of an earlier run")
    else:
        with working(workdir):
            with stopping.stop_requests(), Progress(console) as bars:
                world = open_world(config, parts, bars)
                claim(workdir, described)  # only now: a config that is found wrong leaves nothing behind
                text, rows = _train_and_measure(world, workdir)
            measured = {n: row.measured for n, row in rows.items()}
            inside = {TEXT_LABEL: text.inside, **{n: row.inside for n, row in rows.items()}}
            results = {
                "seed": config.seed,
                "commit": _commit(),
                "config": json.loads(json.dumps(described)),
                "seconds": round(time.monotonic() - started, 1),
                "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
                **text.rates,
                "rows": sorted(
                    (row for found in measured.values() for row in found.rows),
                    key=lambda row: measure.MEASURED.index((row["split"], row["retrieved_text"], row["new_questions"])),
                ),
                "analysis": {
                    "refusal_start_layer": {n: found.refusal.start for n, found in inside.items()},
                    "refusal_end_layer": {n: found.refusal.end for n, found in inside.items()},
                    "no_activation": {n: found.refusal.no_activation for n, found in inside.items()},
                    "refusal_probability": {n: found.refusal.probability for n, found in inside.items()},
                    **{
                        kind: {n: getattr(found, kind) for n, found in inside.items() if getattr(found, kind)}
                        for kind in ("cosine", "wordlike", "patching")
                    },
                },
            }
            with console.status("drawing the report"):
                draw(world, workdir, results, measured, text.answers, inside)
            if not (shown := workdir / EXAMPLES).exists():
                split = world.split("test")
                files.write(split.take(files.examples(split)), world.language, shown)
            said = {"text": text.answers} | {f"{n}/{k}": a for n, m in measured.items() for k, a in m.answers.items()}
            answers = {name: [dataclasses.asdict(one) for one in found] for name, found in said.items()}
            write_json(workdir / "answers.json", answers)
            write_json(results_path, results)  # last: it says that the run is complete
    console.print(_table(results))
    console.print(headline(results), highlight=False)
    if config.note:
        console.print(config.note)
    console.print(f"report: {os.fspath(workdir / 'report.html')}")
