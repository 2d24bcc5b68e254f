"""`tga sweep`: one training for each combination of values, one after the other, and a table of how they ended.

<workdir>/<field>=<value>,.../   as `tga train` leaves it
<workdir>/sweep.json             {"vary", "runs": [{"name", "values", "metrics" or "failed"}]}
"""

import dataclasses
import itertools
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import rich.console
import rich.markup
import rich.table

from tga_jax.errors import UserError
from tga_jax.report import terminal
from tga_jax.train import fetch, loop
from tga_jax.train.config import TrainConfig
from tga_jax.workdir import AnyPath, write_json

_LAST = 10  # one of so many lines of metrics, the last ones, enters the means: a step's own loss is that of one batch
# Of how fast, and of what the data are.
_NOT_SHOWN = re.compile(r"speed/.*|grad_norm.*|padding|skipped|tokens|step")


def combinations(vary: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """One {field: value} a training; the last field varies fastest. Raises UserError for a field without values, or
    with one twice."""
    for field, values in vary.items():
        if not all(values):
            raise UserError(f"--vary.{field}: {','.join(values)!r}, expected values such as 0,1,2")
        if len(set(values)) < len(values):
            raise UserError(f"--vary.{field}: {','.join(values)!r} has a value twice")
    return [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]


def name(values: Mapping[str, str]) -> str:
    """As its folder is called."""
    return re.sub(r"[^\w.,=+-]+", "-", ",".join(f"{field}={value}" for field, value in values.items()))


def ended(workdir: AnyPath) -> dict[str, float]:
    """Means over the last tenth of what a training's metrics.jsonl has."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    last = lines[-max(1, len(lines) // _LAST) :]
    names = [key for key in last[-1] if not _NOT_SHOWN.fullmatch(key)]
    return {key: statistics.fmean(line[key] for line in last if key in line) for key in names}


def run(
    configs: Sequence[tuple[dict[str, str], TrainConfig]], workdir: AnyPath, console: rich.console.Console
) -> list[str]:
    """Trains each that is not finished. Returns the names of those that failed on the way, such as by a loss that is
    not finite; the others are trained all the same.

    configs: the values, and the config with them. Raises UserError for what is wrong before a training begins, and
    Interrupted, after which the same call continues.
    """
    found: list[dict[str, Any]] = []
    names = [name(values) for values, _ in configs]
    if len(set(names)) < len(names):
        raise UserError(
            "--vary: two combinations have the same folder, expected values that differ in letters or digits"
        )
    for number, (called, (values, config)) in enumerate(zip(names, configs, strict=True), 1):
        console.print(f"training {number} of {len(configs)}: {called}", highlight=False, soft_wrap=True)
        own, line = workdir / called, {"name": called, "values": values}
        config = dataclasses.replace(config, name=f"{config.name}, {called}")
        try:
            loop.run(fetch.fetched(config, console, own), own, console, verbose=True)
        except UserError as error:
            # Without a config of its own, it failed before it began, as the others would. Of several processes the
            # others may not have failed, and would wait for this one.
            if jax.process_count() > 1 or not (own / "config.json").exists():
                raise
            console.print(f"failed: {error}", markup=False, highlight=False, soft_wrap=True)
            found.append({**line, "failed": str(error)})
            continue
        if jax.process_index() == 0:
            found.append({**line, "metrics": ended(own)})
    if jax.process_index() == 0:
        vary = {field: list(dict.fromkeys(values[field] for values, _ in configs)) for field in configs[0][0]}
        write_json(workdir / "sweep.json", {"vary": vary, "runs": found})
        console.print(table(found))
        console.print(f"written: {workdir / 'sweep.json'}", highlight=False, soft_wrap=True)
    return [line["name"] for line in found if "failed" in line]


def table(runs: Sequence[Mapping[str, Any]]) -> rich.table.Table:
    """A line for each combination of all but the seeds: mean over these (lowest to highest)."""
    groups: dict[tuple[tuple[str, str], ...], list[Mapping[str, Any]]] = {}
    for one in runs:
        groups.setdefault(tuple(pair for pair in one["values"].items() if pair[0] != "seed"), []).append(one)
    metrics = list(dict.fromkeys(key for one in runs for key in one.get("metrics", ())))
    fields = [field for field, _ in next(iter(groups))]
    caption = "Of the training itself, its last tenth: not of held-out data."
    drawn = terminal.table(*fields, "runs", *metrics, caption=caption)
    for values, own in groups.items():
        good = [one["metrics"] for one in own if "metrics" in one]
        count = str(len(own)) if len(good) == len(own) else f"{len(good)} of {len(own)}"
        cells = [_spread([one[key] for one in good if key in one]) for key in metrics]
        drawn.add_row(*(rich.markup.escape(value) for _, value in values), count, *cells)
    return drawn


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "failed"
    mean = f"{statistics.fmean(values):.4g}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.4g} to {max(values):.4g})"
