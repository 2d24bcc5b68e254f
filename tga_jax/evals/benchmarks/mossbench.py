"""MOSSBench (Li et al. 2024): harmless questions about pictures that look harmful."""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.evals.benchmark import Benchmark, BenchmarkSample, picture
from tga_jax.evals.benchmarks.captions import about_picture, in_words
from tga_jax.evals.benchmarks.fields import json_table, string


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """The text form has the picture's description; a few pictures have none, or only a short one.

    folder: a clone of the authors' repository.
    """
    path = folder / "data/images_information/information.json"
    for key, row in json_table(path, "MOSSBench's samples by id").items():
        where = f"{path}: sample {key}"
        question = about_picture(string(row, "question", where))
        description = next((field for field in ("description", "short description") if row.get(field)), None)
        yield BenchmarkSample(
            id=key,
            question=question,
            images=(picture(folder / "data", string(row, "image", where)),),
            text=in_words(question, string(row, description, where)) if description else None,
            groups={"over": string(row.get("metadata"), "over", where)},
            harmful=False,
        )


BENCHMARK = Benchmark(
    name="mossbench",
    suite="over-refusal",
    samples=samples,
    files="data/images_information/information.json and data/images/, as a clone of xirui-li/MOSSBench",
)
