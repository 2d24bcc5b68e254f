"""XSTest (Röttger et al. 2024): safe prompts that sound unsafe, and unsafe ones that contrast with them."""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.errors import UserError
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.benchmarks.fields import csv_table, string
from tga_jax.evals.questions import each_once

_COLUMNS = ("id", "prompt", "type", "label")
_LABELS = {"safe": False, "unsafe": True}


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """One sample a prompt, in text alone. folder: a clone of the authors' repository."""
    path = folder / "xstest_prompts.csv"
    rows = [(where, [string(row, name, where) for name in _COLUMNS]) for where, row in csv_table(path, _COLUMNS)]
    each_once([row[0] for _, row in rows], str(path))
    for where, (name, prompt, kind, label) in rows:
        if label not in _LABELS:
            raise UserError(f"{where}: {label!r:.60} as `label`, expected safe or unsafe")
        yield BenchmarkSample(name, prompt, groups={"type": kind}, harmful=_LABELS[label])


BENCHMARK = Benchmark(
    name="xstest",
    suite="over-refusal",
    samples=samples,
    files="xstest_prompts.csv, as a clone of paul-rottger/xstest",
)
