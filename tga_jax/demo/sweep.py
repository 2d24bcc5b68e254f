"""Many rows, several seeds, one table: the demo run for each seed, and its rates beside each other."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console
import rich.markdown

from tga_jax.demo import main
from tga_jax.demo.config import DemoConfig
from tga_jax.demo.report import RATE_FIELDS
from tga_jax.errors import UserError
from tga_jax.workdir import write_text

# What the table shows of a split, without retrieved text in the prompt.
_COLUMNS = (
    *(("test", field) for field in RATE_FIELDS if field != "unknown"),
    ("test_pairs", "image_dsr"),
    ("test_hand", "image_dsr"),
)


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line for each row, a cell `mean (lowest to highest)` over the seeds for each rate.

    results: what results.json holds, one for each seed, of the same rows.
    """

    def cell(name: str, split: str, field: str) -> str:
        values = [
            row[field]["value"]
            for result in results
            for row in result["rows"]
            if (row["name"], row["split"], row["retrieved_text"], row["new_questions"]) == (name, split, False, False)
        ]
        known = [value for value in values if value is not None]
        if not known:
            return "n/a"
        return f"{sum(known) / len(known):.2f} ({min(known):.2f} to {max(known):.2f})"

    heads = [RATE_FIELDS[field] + ("" if split == "test" else f", {split}") for split, field in _COLUMNS]
    lines = [["row", *heads], ["---"] * (1 + len(heads))]
    for name in results[0]["config"]["rows"]:
        lines.append([f"`{name}`", *(cell(name, split, field) for split, field in _COLUMNS)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def run(config: DemoConfig, seeds: Sequence[int], workdir: Path, parts: Path, console: rich.console.Console) -> None:
    """Runs what is missing, each seed in `<workdir>/seed<n>`, and writes `<workdir>/table.md` after every seed.

    Raises what the demo raises; stopped, the same call continues.
    """
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"--seeds: {','.join(map(str, seeds)) or 'none'}, expected different numbers such as 0,1,2")
    results = []
    for seed in seeds:
        folder = workdir / f"seed{seed}"
        main.run(dataclasses.replace(config, seed=seed), folder, parts, console)
        results.append(json.loads((folder / "results.json").read_text()))
        said = f"Seeds {', '.join(str(r['seed']) for r in results)}: mean (lowest to highest).\n\n{table(results)}"
        write_text(workdir / "table.md", said)
    console.print(rich.markdown.Markdown((workdir / "table.md").read_text()))
