"""The demo from config to report."""

import dataclasses
import hashlib
import json
import os
import resource
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import rich.table

from tga_jax.analysis import plots
from tga_jax.data import emoji_scenes, emoji_tasks, sources
from tga_jax.data.emoji_concepts import COLORS, CONCEPTS, caption
from tga_jax.demo import measure, trainings
from tga_jax.demo.world import DemoConfig, World
from tga_jax.evals.emoji import Answer
from tga_jax.evals.report import RATE_FIELDS, ROW_LABELS, Example, headline, write_report
from tga_jax.models import presets
from tga_jax.workdir import claim, disk_errors, write_json, write_text


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


def _world(config: DemoConfig, parts: Path, console: rich.console.Console) -> World:
    """Builds the scenes and the tokenizer unless they are there."""
    with disk_errors(parts):
        parts.mkdir(parents=True, exist_ok=True)
    fields: dict[str, Any] = {**config.scenes, "seed": config.seed}
    with console.status("drawing the emoji scenes (half a minute, once)"):
        emoji_scenes.build(emoji_scenes.EmojiScenesConfig(**fields), parts / "scenes")
    # Words depend on the concepts and colours alone, so every seed shares one tokenizer.
    tokenizer = emoji_tasks.build_tokenizer([caption(c.name, color) for c in CONCEPTS for color in COLORS])
    path = parts / "tokenizer.json"
    if not path.exists() or path.read_text() != tokenizer.to_str():
        write_text(path, tokenizer.to_str())
    vocabulary = sources.Vocabulary(tokenizer)
    return World(config, parts, path, vocabulary, presets.get(config.model, vocabulary.size), console)


def _draw(
    world: World,
    workdir: Path,
    results: dict[str, Any],
    measured: dict[str, measure.Measured],
    text: list[Answer],
    inside: dict[str, measure.Inside],
) -> None:
    """The figures and report.html."""
    main_rows: dict[str, Any] = {
        r["name"]: r for r in results["rows"] if r["split"] == "test" and not r["retrieved_text"]
    }
    labels = {name: ROW_LABELS.get(name, name) for name in main_rows}
    names = {plots.TEXT_LABEL: plots.TEXT_LABEL, **labels}
    by_scene = {plots.TEXT_LABEL: results["text_dsr_by_scene"]}
    by_scene |= {labels[name]: row["image_dsr_by_scene"] for name, row in main_rows.items()}
    plots.plot_dsr_by_scene(by_scene, workdir / "dsr_by_scene.png")
    panels = {
        title: {labels[name]: found.curves[kind] for name, found in inside.items() if found.curves}
        for kind, title in (("raw", "as it is"), ("centred", "centred"))
    }
    guides = {
        labels[name]: row.guide.layers
        for name, row in world.config.rows.items()
        if any(stage.guide for stage in row.stages.values())
    }
    plots.plot_layer_cosine(panels, guides, workdir / "layer_cosine.png")
    plots.plot_refusal_by_layer(
        {names[name]: found.refusal.probability for name, found in inside.items()},
        {names[name]: found.refusal.start for name, found in inside.items()},
        workdir / "refusal_by_layer.png",
    )
    examples = _examples(world, labels, measured, text)
    plots.plot_examples(
        np.stack([e.image for e in examples]),
        [e.caption for e in examples],
        {label: [e.answers[label] for e in examples] for label in examples[0].answers},
        {label: [e.verdicts[label] for e in examples] for label in examples[0].answers},
        workdir / "examples.png",
    )
    first = examples[0]
    told = {label: (first.answers[label], first.verdicts[label]) for label in first.answers}
    plots.plot_overview(
        first.image,
        first.caption,
        told.pop(plots.TEXT_LABEL),
        told,
        results["text_dsr"],
        {labels[name]: row["image_dsr"] for name, row in main_rows.items()},
        {labels[name]: row["benign_naming"] for name, row in main_rows.items()},
        workdir / "overview.png",
    )
    figures = {
        "The finding in one picture": "overview.png",
        "Refusals of harmful pictures by scene, beside the same captions as text": "dsr_by_scene.png",
        "Cosine of picture and caption states by layer (solid: matched, dashed: mismatched)": "layer_cosine.png",
        "Where refusal starts: probability of a refusal token by layer (logit lens)": "refusal_by_layer.png",
        "Held-out pictures and answers": "examples.png",
    }
    write_report(results, {c: workdir / name for c, name in figures.items()}, workdir / "report.html", examples)


def _examples(
    world: World, labels: dict[str, str], measured: dict[str, measure.Measured], text: list[Answer]
) -> list[Example]:
    """The first held-out picture of each harmful scene, then benign ones, in the order of the split."""
    pictures = world.split("test")
    shown: list[int] = []
    for scene in dict.fromkeys(str(s) for s in pictures.scenes):
        rows = [i for i in range(len(pictures)) if pictures.scenes[i] == scene]
        shown += rows[: 3 if scene == "" else 1]
    shown.sort(key=lambda i: (pictures.scenes[i] != "gun", pictures.scenes[i] == ""))
    as_text = {a.id: a for a in text}
    caption_answer = {
        str(pictures.captions[i]): as_text[str(pictures.ids[i])]
        for i in range(len(pictures))
        if str(pictures.ids[i]) in as_text
    }
    said = {
        name: {a.id: a for a in found.answers["test"] if a.question == emoji_tasks.DESCRIBE}
        for name, found in measured.items()
    }
    examples = []
    for i in shown:
        of = {plots.TEXT_LABEL: caption_answer[str(pictures.captions[i])]}
        of |= {labels[name]: answers[str(pictures.ids[i])] for name, answers in said.items()}
        answers, verdicts = ({k: getattr(a, field) for k, a in of.items()} for field in ("answer", "verdict"))
        examples.append(Example(pictures.images[i], str(pictures.captions[i]), answers, verdicts))
    return examples


def _table(results: dict[str, Any]) -> rich.table.Table:
    table = rich.table.Table("row", "pictures", "R in prompt", *RATE_FIELDS.values())
    for row in results["rows"]:
        values = [row[field] for field in RATE_FIELDS]
        cells = ["n/a" if v["value"] is None else f"{v['value']:.2f}" for v in values]
        table.add_row(
            ROW_LABELS.get(row["name"], row["name"]), row["split"], "yes" if row["retrieved_text"] else "no", *cells
        )
    return table


def default_workdir(config: DemoConfig) -> Path:
    """`runs/<name>-seed<seed>-<hash of the config>`: another config never meets another run's folder."""

    digest = hashlib.sha256(json.dumps(dataclasses.asdict(config), sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{config.name}-seed{config.seed}-{digest[:6]}"


def run(config: DemoConfig, workdir: Path, parts: Path, console: rich.console.Console) -> None:
    """Trains what is missing in `parts`, measures, and writes results.json and report.html to `workdir`.

    Raises UserError if `workdir` holds another config's run, and what the trainings raise.
    """
    started = time.monotonic()
    claim(workdir, dataclasses.asdict(config))
    results_path = workdir / "results.json"
    if results_path.exists() and (workdir / "report.html").exists():
        results = json.loads(results_path.read_text())
    else:
        world = _world(config, parts, console)
        clip_dir = trainings.train_clip(world)
        text_dir = trainings.train_text(world)
        attachments = trainings.attach(world, clip_dir)
        folders = {n: trainings.train_row(world, n, row, text_dir, attachments) for n, row in config.rows.items()}
        with console.status("asking every model about the held-out pictures"):
            text_rates, text_answers = measure.measure_text(world, text_dir, attachments)
            measured = {n: measure.measure_row(world, n, folder, attachments) for n, folder in folders.items()}
        with console.status("looking inside"):
            held_out = measure.items(world, attachments, "test")
            inside = {plots.TEXT_LABEL: measure.inside(world, measure.load_text(world, text_dir), held_out, False)}
            for name, folder in folders.items():
                inside[name] = measure.inside(world, measure.load_row(world, folder), held_out, True)
        results = {
            "seed": config.seed,
            "commit": _commit(),
            "config": json.loads(json.dumps(dataclasses.asdict(config))),
            "seconds": round(time.monotonic() - started, 1),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            **text_rates,
            "rows": sorted(
                (row for found in measured.values() for row in found.rows),
                key=lambda row: (row["split"] != "test", row["retrieved_text"]),
            ),
            "analysis": {
                "refusal_start_layer": {n: found.refusal.start for n, found in inside.items()},
                "refusal_end_layer": {n: found.refusal.end for n, found in inside.items()},
                "no_activation": {n: found.refusal.no_activation for n, found in inside.items()},
                "refusal_probability": {n: found.refusal.probability for n, found in inside.items()},
                "cosine": {n: found.curves for n, found in inside.items() if found.curves},
            },
        }
        with console.status("drawing the report"):
            _draw(world, workdir, results, measured, text_answers, inside)
        write_json(results_path, results)
    console.print(_table(results))
    console.print(headline(results))
    console.print(f"report: {os.fspath(workdir / 'report.html')}")
