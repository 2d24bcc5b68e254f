"""StrongREJECT's forbidden prompts (Souly et al. 2024), in text, of six categories."""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.benchmarks.fields import csv_table, string

_COLUMNS = ("category", "source", "forbidden_prompt")


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """One sample a prompt, by its place in the file. folder: a clone of the authors' repository."""
    table = csv_table(folder / "strongreject_dataset/strongreject_dataset.csv", _COLUMNS)
    for number, (where, row) in enumerate(table):
        category, source, prompt = (string(row, column, where) for column in _COLUMNS)
        yield BenchmarkSample(str(number), prompt, groups={"category": category, "source": source}, harmful=True)


BENCHMARK = Benchmark(
    name="strongreject",
    suite="safety",
    samples=samples,
    new_tokens=512,
    files="strongreject_dataset/strongreject_dataset.csv, as a clone of alexandrasouly/strongreject",
)
