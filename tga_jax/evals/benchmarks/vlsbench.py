"""VLSBench (Hu et al. 2025): questions that sound harmless about pictures that are not."""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.evals.benchmark import Benchmark, BenchmarkSample, picture
from tga_jax.evals.benchmarks.captions import about_picture, in_words
from tga_jax.evals.benchmarks.fields import string
from tga_jax.evals.questions import each_once, fields
from tga_jax.workdir import read_json


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """The text form has the picture's description. folder: a download of the authors' data set, imgs.tar unpacked."""
    path = folder / "data.json"
    rows = [(f"{path}: [{n}]", row) for n, row in enumerate(read_json(path, "VLSBench's samples", kind=list))]
    each_once([str(*fields(row, where, instruction_id=int | str)) for where, row in rows], str(path))
    for where, row in rows:
        # One has none, "": the picture is all that is asked.
        asks = row.get("instruction") != ""
        question = about_picture(string(row, "instruction", where) if asks else "").rstrip("\n")
        yield BenchmarkSample(
            id=str(row["instruction_id"]),
            question=question,
            images=(picture(folder, string(row, "image_path", where)),),
            text=in_words(question, string(row, "image_description", where)),
            groups={"category": string(row, "category", where), "sub_category": string(row, "sub_category", where)},
            harmful=True,
        )


BENCHMARK = Benchmark(
    name="vlsbench",
    suite="safety",
    samples=samples,
    note="The authors count an answer with a warning as safe, too, which is no refusal: --rubric=safety judges so.",
    files="data.json and imgs/, unpacked of imgs.tar, of Foreshhh/vlsbench on the hub",
)
