"""TextVQA (Singh et al., 2019): questions that need the text in a picture, the validation split.

    llava_textvqa_val_v051_ocr.jsonl     questions in LLaVA's form, with OCR tokens; `question_id` is the picture's
    TextVQA_0.5.1_val.json               TextVQA's own, with ten people's answers
    train_images/                        its pictures

A question is joined to its answers by picture and words, and has TextVQA's `question_id` as its id. LLaVA's prompt is
left as it is, with what an OCR system read in the picture.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from tga_jax.errors import UserError
from tga_jax.evals import vqa
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.questions import SHORT_ANSWER, QuestionLine, each_once, fields, labels_of, read, to_sample
from tga_jax.workdir import read_json

_OCR = "Reference OCR token:"


def _key(image: str, words: str) -> str:
    return f"{image}: {words.lower()}"


def _words(question: QuestionLine) -> str:
    lines = [line for line in question.text.split("\n") if line != SHORT_ANSWER and not line.startswith(_OCR)]
    if len(lines) != 1:
        raise UserError(f"{question.where}: `text` is {len(lines)} lines without {_OCR} ..., expected one question")
    return lines[0]


def _answers(path: Path) -> Iterator[tuple[str, Any]]:
    [rows] = fields(read_json(path, "TextVQA's annotations"), str(path), data=list)
    for number, row in enumerate(rows):
        where = f"{path}: data[{number}]"
        image, words, identity, answers = fields(
            row, where, image_id=str, question=str, question_id=int | str, answers=list
        )
        yield _key(image, words), (str(identity), vqa.checked_answers(answers, where))


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    path, annotations = folder / "llava_textvqa_val_v051_ocr.jsonl", folder / "TextVQA_0.5.1_val.json"
    questions = read(path)
    keys = [_key(question.id, _words(question)) for question in questions]
    labels = labels_of(keys, _answers(annotations), f"{path} and {annotations}")
    each_once([identity for identity, _ in labels.values()], str(annotations))
    for key, question in zip(keys, questions, strict=True):
        identity, answers = labels[key]
        yield replace(to_sample(question, folder / "train_images", target=answers), id=identity)


BENCHMARK = Benchmark(
    name="textvqa",
    suite="general",
    samples=samples,
    score=vqa.score,
    new_tokens=128,
    files="llava_textvqa_val_v051_ocr.jsonl, TextVQA_0.5.1_val.json and pictures in train_images/",
)
