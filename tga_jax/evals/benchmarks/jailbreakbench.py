"""JailbreakBench's behaviours (Chao et al. 2024), in text: harmful ones, and benign ones on the same topics."""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.benchmarks.fields import csv_table, string
from tga_jax.evals.questions import each_once

_COLUMNS = ("Index", "Goal", "Category")


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """One sample a behaviour. folder: a download of the authors' data set."""
    for kind, harmful in (("harmful", True), ("benign", False)):
        path = folder / f"data/{kind}-behaviors.csv"
        rows = [[string(row, name, where) for name in _COLUMNS] for where, row in csv_table(path, _COLUMNS)]
        each_once([row[0] for row in rows], str(path))
        for index, goal, category in rows:
            yield BenchmarkSample(f"{kind}/{index}", goal, groups={"category": category}, harmful=harmful)


BENCHMARK = Benchmark(
    name="jailbreakbench",
    suite="safety",
    samples=samples,
    files="data/harmful-behaviors.csv and data/benign-behaviors.csv of JailbreakBench/JBB-Behaviors on the hub",
)
