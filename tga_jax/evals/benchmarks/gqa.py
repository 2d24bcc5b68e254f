"""GQA (Hudson and Manning, 2019): compositional questions about real pictures, the balanced test-dev split.

    llava_gqa_testdev_balanced.jsonl            questions in LLaVA's form
    data/testdev_balanced_questions.json        GQA's own, with the answers; without it there is no accuracy
    data/images/                                its pictures

`testdev_balanced_predictions.json` is what GQA's eval.py reads.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.questions import fields, labels_of, read, to_sample
from tga_jax.workdir import read_json, write_json


def _answers(path: Path) -> Iterator[tuple[str, str]]:
    for identity, row in read_json(path, "GQA's questions by their ids").items():
        yield identity, fields(row, f"{path}: question {identity!r}", answer=str)[0]


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    path, answers = folder / "llava_gqa_testdev_balanced.jsonl", folder / "data/testdev_balanced_questions.json"
    questions, scored = read(path), answers.is_file()
    where = f"{path} and {answers}" if scored else str(path)
    labels = labels_of([q.id for q in questions], _answers(answers) if scored else None, where)
    for question in questions:
        yield to_sample(question, folder / "data/images", target=labels[question.id])


def prediction(answer: str) -> str:
    return answer.strip().rstrip(".").lower()


def _score(sample: BenchmarkSample, answer: str) -> dict[str, float]:
    return {} if sample.target is None else {"accuracy": float(prediction(answer) == sample.target)}


def _export(pairs: Sequence[tuple[BenchmarkSample, str]], folder: Path, _: Path) -> None:
    rows = [{"questionId": sample.id, "prediction": prediction(answer)} for sample, answer in pairs]
    write_json(folder / "testdev_balanced_predictions.json", rows)


BENCHMARK = Benchmark(
    name="gqa",
    suite="general",
    samples=samples,
    score=_score,
    export=_export,
    new_tokens=128,
    files="llava_gqa_testdev_balanced.jsonl and pictures in data/images/; data/testdev_balanced_questions.json for the "
    "accuracy",
)
