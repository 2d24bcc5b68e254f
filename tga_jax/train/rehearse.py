"""`tga validate-data --config`: every sample of a training's files through the training's own code, up to the batch."""

from pathlib import Path
from typing import Any

import rich.console

from tga_jax import workdir
from tga_jax.data import sources, validate
from tga_jax.data.llava_source import LlavaRecords, LlavaSource
from tga_jax.data.pipeline import endless
from tga_jax.errors import UserError
from tga_jax.train import setup
from tga_jax.train.config import TrainConfig


def reports(config: TrainConfig, decode: bool, console: rich.console.Console | None = None) -> dict[str, Any]:
    """For every source, by its name, `validate.validate`'s report. decode: read every picture, as the training does.

    A guide that acts on some samples of one source need not act on any of another's. Raises UserError for a config,
    file or store that the training cannot begin with, and for a source that is no file of samples.
    """
    if not config.data.source:
        raise UserError("data.source: empty, expected a source to train on")
    vocabulary = sources.vocabulary(config.data)
    model = setup.make_model(config, vocabulary.size)
    pictures = setup.pictures(config, model)
    guide, found = config.loss.guide, {}
    for name, source in sorted(config.data.source.items()):
        if not isinstance(source, LlavaSource):
            raise UserError(
                f"data.source.{name}: is of kind {source.kind!r}, expected llava, whose files are looked at"
            )
        records = LlavaRecords(source, pictures)
        batches = setup.make_batches(config, vocabulary, model, endless(records, config.seed))
        skips = config.data.policy.missing == "skip"
        training = validate.Training(records, vocabulary, batches, skips, guide.counts if guide is not None else None)
        # Of a built folder the images are its own.
        images = workdir.located(source.images) if source.images else None
        checks = validate.Checks(images, decode and records.has_images, training=training)
        found[name] = validate.validate(workdir.located(source.path), checks, console)
    if any(not report["problems"]["guide"]["count"] for report in found.values()):
        for report in found.values():
            report["problems"]["guide"] |= {"stops_training": False}
            problems = report["problems"].values()
            report["fit_for_training"] = not any(p["count"] and p["stops_training"] for p in problems)
    return found


def run(config: TrainConfig, decode: bool, report: Path | None, console: rich.console.Console) -> int:
    """Prints the reports and writes them where asked for; the exit status: 1 if the training would stop."""
    found = reports(config, decode, console)
    for one in found.values():
        validate.show(one, console)
    if report:
        workdir.write_json(report, found)
    return 0 if all(one["fit_for_training"] for one in found.values()) else 1
