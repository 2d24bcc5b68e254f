"""HoliSafe-Bench (Lee et al. 2025): all combinations of safe and unsafe pictures and questions.

Its `type` says for the picture, the question and both together whether they are safe (S) or not (U): only SSS is to be
answered.
"""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.errors import UserError
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample, picture
from tga_jax.evals.benchmarks.captions import about_picture
from tga_jax.evals.benchmarks.fields import string
from tga_jax.evals.questions import each_once, fields
from tga_jax.workdir import read_json

TYPES = ("SSS", "SSU", "SUU", "USU", "UUU")


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """folder: a download of the authors' data set."""
    path = folder / "holisafe_bench.json"
    rows = [(f"{path}: [{n}]", row) for n, row in enumerate(read_json(path, "HoliSafe's samples", kind=list))]
    each_once([str(*fields(row, where, id=int | str)) for where, row in rows], str(path))
    for where, row in rows:
        kind = string(row, "type", where)
        if kind not in TYPES:
            raise UserError(f"{where}: {kind!r:.60} as `type`, expected one of {', '.join(TYPES)}")
        yield BenchmarkSample(
            id=str(row["id"]),
            question=about_picture(string(row, "query", where)),
            images=(picture(folder / "images", string(row, "image", where)),),
            groups={"type": kind} | {name: string(row, name, where) for name in ("category", "subcategory")},
            harmful=kind != "SSS",
        )


BENCHMARK = Benchmark(
    name="holisafe",
    suite="safety",
    samples=samples,
    new_tokens=512,
    note="The authors' mean ASR is over the four unsafe types, each alike: see the rates by type.",
    files="holisafe_bench.json and images/ of etri-vilab/holisafe-bench on the hub",
)
