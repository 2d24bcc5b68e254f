"""POPE (Li et al., 2023): is this object in the picture, yes or no; half of the objects are not.

    llava_pope_test.jsonl                              LLaVA's questions, with `category`
    coco/coco_pope_{random,popular,adversarial}.json   POPE's labels, JSON lines, at its commit e3e39262
    val2014/                                           COCO's pictures

A label is joined to its question by picture and words within the category. Ids cannot do it: LLaVA adds 10,000,000 for
"random" and 20,000,000 for "popular", and later versions of POPE ask other things under the same ids.

"accuracy" and the figures read answers as LLaVA does: no if the first sentence has the word "No", "no" or "not", else
yes, even if it is empty. "exact_match" wants the answer to be the label, whatever the case, as lmms-eval does.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tga_jax.errors import UserError
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.questions import QuestionLine, each_once, fields, json_lines, labels_of, read, to_sample

LABELS = "https://github.com/AoiDragon/POPE/tree/e3e39262c85a6a83f26cf5094022a782cb0df58d/output/coco"
CATEGORIES = ("random", "popular", "adversarial")


def _key(question: QuestionLine) -> str:
    words, _, _instruction = question.text.partition("\n")
    return f"{question.image}: {words}"


def _labels(path: Path) -> Iterator[tuple[str, str]]:
    for where, row in json_lines(path, "POPE's labels in JSON lines"):
        image, text, label = fields(row, where, image=str, text=str, label=str)
        if label not in ("yes", "no"):
            raise UserError(f"{where}: `label` is {label!r}, expected yes or no")
        yield f"{image}: {text}", label


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    path = folder / "llava_pope_test.jsonl"
    questions = read(path)
    each_once([question.id for question in questions], str(path))
    for question in questions:
        if question.category not in CATEGORIES:
            raise UserError(
                f"{question.where}: `category` is {question.category!r}, expected one of {', '.join(CATEGORIES)}"
            )
    labels = {}
    for category in CATEGORIES:
        own, file = [_key(q) for q in questions if q.category == category], folder / f"coco/coco_pope_{category}.json"
        pairs = list(_labels(file))
        try:
            labels[category] = labels_of(own, pairs, f"{path} and {file}")
        except UserError as error:
            raise UserError(f"{error}; LLaVA's questions go with the labels of {LABELS}") from error
    for question in questions:
        target = {"category": question.category, "label": labels[question.category][_key(question)]}
        yield to_sample(question, folder / "val2014", groups={"category": question.category}, target=target)


def said(answer: str) -> str:
    words = answer.strip().partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def _score(sample: BenchmarkSample, answer: str) -> dict[str, float]:
    label = sample.target["label"]
    return {"accuracy": float(said(answer) == label), "exact_match": float(answer.strip().lower() == label)}


def _figures(pairs: Sequence[tuple[Any, str]]) -> dict[str, float]:
    """Of finding "yes"; 0 where nothing is there to divide by."""
    labels, answers = [target["label"] == "yes" for target, _ in pairs], [said(answer) == "yes" for _, answer in pairs]
    found = sum(label and answer for label, answer in zip(labels, answers, strict=True))
    yes, true = sum(answers), sum(labels)
    return {
        "precision": found / max(yes, 1),
        "recall": found / max(true, 1),
        "f1": 2 * found / max(yes + true, 1),
        "yes_ratio": yes / max(len(answers), 1),
    }


def _summarize(pairs: Sequence[tuple[Any, str]]) -> dict[str, float]:
    """Of all, and the F1 of each category: what LLaVA's paper reports is the mean of those three."""
    parts = {c: [pair for pair in pairs if pair[0]["category"] == c] for c in CATEGORIES}
    return _figures(pairs) | {f"f1_{category}": _figures(own)["f1"] for category, own in parts.items() if own}


BENCHMARK = Benchmark(
    name="pope",
    suite="general",
    samples=samples,
    score=_score,
    summarize=_summarize,
    new_tokens=128,
    files="llava_pope_test.jsonl, coco/coco_pope_{random,popular,adversarial}.json (output/coco of AoiDragon/POPE at "
    "commit e3e39262) and pictures in val2014/",
)
