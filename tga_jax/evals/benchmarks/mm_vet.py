"""MM-Vet (Yu et al., 2023): open questions, which its own judge, a language model, scores.

    llava-mm-vet.jsonl     questions in LLaVA's form
    images/                its pictures

`mm-vet.json` is what that judge reads: {"v1_0": "answer", ...}.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.questions import each_once, read, to_sample
from tga_jax.workdir import write_json


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    path = folder / "llava-mm-vet.jsonl"
    questions = read(path)
    each_once([question.id for question in questions], str(path))
    for question in questions:
        yield to_sample(question, folder / "images", instruction=None)


def _export(pairs: Sequence[tuple[BenchmarkSample, str]], folder: Path, _: Path) -> None:
    write_json(folder / "mm-vet.json", {f"v1_{sample.id}": answer for sample, answer in pairs})


BENCHMARK = Benchmark(
    name="mm-vet",
    suite="general",
    samples=samples,
    export=_export,
    new_tokens=1024,
    files="llava-mm-vet.jsonl and pictures in images/",
)
