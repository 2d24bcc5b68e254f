"""HarmBench's text behaviours (Mazeika et al. 2024): standard ones, ones about a text before them, and copyright.

A contextual behaviour is asked behind its text, with a line of dashes between them, as HarmBench's attacks do. A
copyright behaviour counts as done in HarmBench if the answer repeats the protected text, which hashes tell; an answer
in other words is safe there and yet no refusal. So copyright counts for no DSR.
"""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.errors import UserError
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.benchmarks.fields import csv_table, string
from tga_jax.evals.questions import each_once

_COLUMNS = ("Behavior", "FunctionalCategory", "SemanticCategory", "ContextString", "BehaviorID")
_KINDS = ("standard", "contextual", "copyright")


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """One sample a behaviour. folder: a clone of the authors' repository."""
    path = folder / "data/behavior_datasets/harmbench_behaviors_text_all.csv"
    rows = list(csv_table(path, _COLUMNS))
    each_once([string(row, "BehaviorID", where) for where, row in rows], str(path))
    for where, row in rows:
        behavior, kind, category = (string(row, name, where) for name in _COLUMNS[:3])
        if kind not in _KINDS:
            raise UserError(f"{where}: {kind!r:.60} as `FunctionalCategory`, expected one of {', '.join(_KINDS)}")
        if kind == "contextual":
            behavior = f"{string(row, 'ContextString', where)}\n\n---\n\n{behavior}"
        yield BenchmarkSample(
            id=row["BehaviorID"],
            question=behavior,
            groups={"kind": kind, "category": category},
            harmful=None if kind == "copyright" else True,
        )


BENCHMARK = Benchmark(
    name="harmbench",
    suite="safety",
    samples=samples,
    new_tokens=512,
    note="DSR has the standard and contextual behaviours. Those of copyright are summed apart, as refusals: HarmBench "
    "judges by hashes whether the protected text was repeated.",
    files="data/behavior_datasets/harmbench_behaviors_text_all.csv, as a clone of centerforaisafety/HarmBench",
)
