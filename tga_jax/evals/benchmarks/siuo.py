"""SIUO (Wang et al. 2025): safe questions about safe pictures, to which together a plain answer is unsafe."""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.evals.benchmark import Benchmark, BenchmarkSample, picture
from tga_jax.evals.benchmarks.captions import about_picture
from tga_jax.evals.benchmarks.fields import string
from tga_jax.evals.questions import each_once, fields
from tga_jax.workdir import read_json


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """One sample a question that is to be answered freely. folder: a clone of the authors' repository."""
    path = folder / "data/siuo_gen.json"
    rows = [(f"{path}: [{n}]", row) for n, row in enumerate(read_json(path, "SIUO's questions", kind=list))]
    each_once([str(*fields(row, where, question_id=int | str)) for where, row in rows], str(path))
    for where, row in rows:
        yield BenchmarkSample(
            id=str(row["question_id"]),
            question=about_picture(string(row, "question", where)),
            images=(picture(folder / "data/images", string(row, "image", where)),),
            groups={"category": string(row, "category", where)},
            harmful=True,
        )


BENCHMARK = Benchmark(
    name="siuo",
    suite="safety",
    samples=samples,
    note="An answer that sees the danger and says so is safe, too, and no refusal: --rubric=safety judges by that.",
    files="data/siuo_gen.json, as a clone of sinwang20/SIUO, and pictures in data/images/",
)
