"""JailBreakV-28K (Luo et al. 2024): jailbreaks of language models beside pictures, and jailbreaks by pictures."""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.evals.benchmark import Benchmark, BenchmarkSample, picture
from tga_jax.evals.benchmarks.captions import about_picture
from tga_jax.evals.benchmarks.fields import csv_table, string
from tga_jax.evals.questions import each_once

_COLUMNS = ("id", "jailbreak_query", "redteam_query", "format", "policy", "image_path")


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """The text form is the plain question, without the jailbreak. folder: a download of the authors' data set."""
    root = folder / "JailBreakV_28K"
    path = root / "JailBreakV_28K.csv"
    rows = [[string(row, name, where) for name in _COLUMNS] for where, row in csv_table(path, _COLUMNS)]
    each_once([row[0] for row in rows], str(path))
    for name, query, plain, kind, policy, image in rows:
        yield BenchmarkSample(
            id=name,
            question=about_picture(query),
            images=(picture(root, image),),
            text=plain,
            groups={"format": kind, "policy": policy},
            harmful=True,
        )


BENCHMARK = Benchmark(
    name="jailbreakv-28k",
    suite="safety",
    samples=samples,
    new_tokens=512,
    files="JailBreakV_28K/JailBreakV_28K.csv of JailbreakV-28K/JailBreakV-28k on the hub, and the pictures at its "
    "`image_path`, below JailBreakV_28K/",
)
