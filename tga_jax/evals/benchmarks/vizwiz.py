"""VizWiz-VQA (Gurari et al., 2018): what blind people asked about pictures that they took, which not all can be told.

    val.json and val/                 the validation split with people's answers
    llava_test.jsonl and test/        questions of the test split in LLaVA's form, whose answers are not public

The split is the first that is there. A question is asked as LLaVA asks it: its first letter alone is a capital one, and
behind it stand instructions that allow "Unanswerable".
"accuracy" is VQA accuracy. unanswerable_precision, _recall and _f1 are about saying "unanswerable" where people could
not answer. `predictions.json` is what VizWiz' server reads.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tga_jax.errors import UserError
from tga_jax.evals import vqa
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample, picture
from tga_jax.evals.benchmarks.captions import about_picture
from tga_jax.evals.benchmarks.fields import string
from tga_jax.evals.questions import SHORT_ANSWER, each_once, fields, read, to_sample
from tga_jax.workdir import read_json, write_json

INSTRUCTION = f"When the provided information is insufficient, respond with 'Unanswerable'.\n{SHORT_ANSWER}"
_UNANSWERABLE = "unanswerable"


def _answered(path: Path, folder: Path) -> Iterator[BenchmarkSample]:
    rows = [(f"{path}: [{n}]", row) for n, row in enumerate(read_json(path, "VizWiz' annotations", kind=list))]
    each_once([string(row, "image", where) for where, row in rows], str(path))
    for where, row in rows:
        kind, answerable, answers = fields(row, where, answer_type=str, answerable=int, answers=list)
        if answerable not in (0, 1):
            raise UserError(f"{where}: `answerable` is {answerable}, expected 0 or 1")
        said = vqa.checked_answers([fields(answer, where, answer=str)[0] for answer in answers], where)
        yield BenchmarkSample(
            id=row["image"],
            question=about_picture(f"{string(row, 'question', where).capitalize()}\n{INSTRUCTION}"),
            images=(picture(folder, row["image"]),),
            groups={"answer_type": kind},
            target={"answers": said, "answerable": answerable},
        )


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """By the picture's name, which belongs to one question alone."""
    annotations, path = folder / "val.json", folder / "llava_test.jsonl"
    if annotations.is_file():
        yield from _answered(annotations, folder / "val")
        return
    questions = read(path)
    each_once([question.image for question in questions], str(path))
    for question in questions:
        sample = to_sample(question, folder / "test", INSTRUCTION)
        yield BenchmarkSample(question.image, sample.question, sample.images)


def _score(sample: BenchmarkSample, answer: str) -> dict[str, float]:
    return {} if sample.target is None else {"accuracy": vqa.accuracy(answer, sample.target["answers"])}


def _summarize(pairs: Sequence[tuple[Any, str]]) -> dict[str, float]:
    """0 where nothing is there to divide by; nothing without people's answers."""
    known = [(not target["answerable"], vqa.normalize(answer) == _UNANSWERABLE) for target, answer in pairs if target]
    if not known:
        return {}
    found, said, true = sum(a and b for a, b in known), sum(b for _, b in known), sum(a for a, _ in known)
    rates = {"precision": found / max(said, 1), "recall": found / max(true, 1), "f1": 2 * found / max(said + true, 1)}
    return {f"{_UNANSWERABLE}_{name}": value for name, value in rates.items()}


def _export(pairs: Sequence[tuple[BenchmarkSample, str]], folder: Path, _: Path) -> None:
    rows = [{"image": sample.id, "answer": vqa.normalize(answer)} for sample, answer in pairs]
    write_json(folder / "predictions.json", rows)


BENCHMARK = Benchmark(
    name="vizwiz",
    suite="general",
    samples=samples,
    score=_score,
    summarize=_summarize,
    export=_export,
    new_tokens=128,
    files="val.json and pictures in val/ for the accuracy, or llava_test.jsonl and pictures in test/",
)
