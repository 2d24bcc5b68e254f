"""LLaVA-Bench, in the wild (Liu et al., 2023): open questions, of three kinds, that a language model judges.

    questions.jsonl      the questions, with `category`: conv, detail or complex
    images/              its pictures

`answers.jsonl` is what LLaVA's eval_gpt_review_bench.py reads beside answers_gpt4.jsonl and context.jsonl, which lie in
the same download. It goes through all three line by line, so a limit makes a file that it cannot use.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.questions import each_once, read, to_sample
from tga_jax.workdir import json_line, write_text

CATEGORIES = ("conv", "detail", "complex")


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    path = folder / "questions.jsonl"
    questions = read(path)
    each_once([question.id for question in questions], str(path))
    for question in questions:
        if question.category not in CATEGORIES:
            expected = ", ".join(CATEGORIES)
            raise UserError(f"{question.where}: `category` is {question.category!r}, expected one of {expected}")
        yield to_sample(question, folder / "images", None, groups={"category": question.category})


def _export(pairs: Sequence[tuple[BenchmarkSample, str]], folder: Path, _: Path) -> None:
    rows = [
        {
            "question_id": int(sample.id) if sample.id.isdecimal() else sample.id,
            "prompt": sample.question.removeprefix(f"{IMAGE}\n"),
            "text": answer,
            "answer_id": sample.id,
            "model_id": "tga_jax",
            "metadata": {"category": sample.groups["category"]},
        }
        for sample, answer in pairs
    ]
    write_text(folder / "answers.jsonl", "".join(json_line(row) for row in rows))


BENCHMARK = Benchmark(
    name="llava-bench",
    suite="general",
    samples=samples,
    export=_export,
    new_tokens=1024,
    note="Scores by kind of question come from LLaVA's eval_gpt_review_bench.py and summarize_gpt_review.py.",
    files="questions.jsonl and pictures in images/, of liuhaotian/llava-bench-in-the-wild on the hub",
)
