"""SPA-VL's test split (Zhang et al. 2025): questions whose answers could do harm, and ones for helpfulness."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tga_jax.data import images
from tga_jax.errors import UserError
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.benchmarks.captions import about_picture
from tga_jax.evals.benchmarks.fields import parquet_table, string

SPLITS = {"harm": True, "help": False}


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """One sample a question; its pictures lie in the tables. folder: a download of the authors' data set."""
    for split, harmful in SPLITS.items():
        files = sorted((folder / "test").glob(f"{split}-*.parquet"))
        if not files:
            raise UserError(f"{folder / 'test'}: no {split}-*.parquet, expected {BENCHMARK.files}")
        rows = (row for file in files for row in parquet_table(file, ("question", "image")))
        for number, (where, row) in enumerate(rows):
            data = row["image"].get("bytes") if isinstance(row["image"], dict) else None
            if not isinstance(data, bytes):
                raise UserError(f"{where}: {row['image']!r:.60} as `image`, expected a picture's bytes")
            # Of the domain, where the table has it.
            groups = {"split": split} | ({"class": string(row, "class1", where)} if "class1" in row else {})
            yield BenchmarkSample(
                id=f"{split}/{number}",
                question=about_picture(string(row, "question", where)),
                images=(partial(images.decode, data, where),),
                groups=groups,
                harmful=harmful,
            )


BENCHMARK = Benchmark(
    name="spa-vl",
    suite="safety",
    samples=samples,
    note="help: the authors compare how helpful answers are; here a refusal of them counts as over-refusal.",
    files="test/harm-*.parquet and test/help-*.parquet of sqrti/SPA-VL on the hub",
)
