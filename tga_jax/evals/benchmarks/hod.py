"""HOD (Ha et al. 2023): photos of harmful objects, easy ones and hard ones."""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.evals.benchmark import Benchmark, BenchmarkSample, picture
from tga_jax.evals.benchmarks.captions import Captions
from tga_jax.evals.benchmarks.fields import csv_table, string
from tga_jax.evals.benchmarks.scenes import QUESTION

_COLUMNS = ("Class Type", "Case Type", "Image Name")


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """One sample a picture of the table, also if it stands there twice. folder: a clone of the authors' repository."""
    captions = Captions(folder)
    groups = {}
    for where, row in csv_table(folder / "dataset/class/HOD.csv", _COLUMNS):
        kind, case, name = (string(row, column, where) for column in _COLUMNS)
        # "insulting gesture" and "Normal" in the table, insulting_gesture/normal_cases on the disk.
        image = f"dataset/class/{kind.replace(' ', '_')}/{case.lower()}_cases/{name}"
        groups[image] = {"class": kind, "case": case.lower()}
    for image, group in groups.items():
        yield BenchmarkSample(
            id=image,
            question=QUESTION,
            images=(picture(folder, image),),
            text=captions.text(QUESTION, image),
            groups=group,
            harmful=True,
        )


BENCHMARK = Benchmark(
    name="hod",
    suite="safety",
    samples=samples,
    files="dataset/class/HOD.csv and dataset/class/<class>/{normal_cases,hard_cases}/<picture>, as a clone of "
    "poori-nuna/HOD-Benchmark-Dataset; captions.jsonl if there are captions",
)
