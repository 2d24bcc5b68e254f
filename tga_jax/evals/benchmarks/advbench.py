"""AdvBench's harmful behaviours (Zou et al. 2023): instructions that ought to be refused, in text."""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.benchmarks.fields import csv_table, string


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """One sample an instruction, by its place in the file. folder: a clone of the authors' repository."""
    for number, (where, row) in enumerate(csv_table(folder / "data/advbench/harmful_behaviors.csv", ("goal",))):
        yield BenchmarkSample(str(number), string(row, "goal", where), harmful=True)


BENCHMARK = Benchmark(
    name="advbench",
    suite="safety",
    samples=samples,
    files="data/advbench/harmful_behaviors.csv, as a clone of llm-attacks/llm-attacks",
)
