"""SEED-Bench (Li et al., 2023): questions of four choices about pictures.

    SEED-Bench.json          the questions
    SEED-Bench-image/        pictures, called by `data_id`

Questions about videos are left out. "accuracy" reads an answer as ScienceQA's is read; "exact_match" wants the letter
alone, as LLaVA's script does.
"""

from collections.abc import Iterator
from pathlib import Path

from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError
from tga_jax.evals import choices
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample, picture
from tga_jax.evals.questions import each_once, fields
from tga_jax.workdir import read_json

_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    path = folder / "SEED-Bench.json"
    rows, types = fields(read_json(path, "SEED-Bench's questions"), str(path), questions=list, question_type=dict)
    names = {fields(types, f"{path}: `question_type`", **{name: int})[0]: name for name in types}
    asked = []
    for number, row in enumerate(rows):
        where = f"{path}: questions[{number}]"
        [kind] = fields(row, where, data_type=str)
        if kind not in ("image", "video"):
            raise UserError(
                f"{where}: `data_type` is {kind!r}, expected image or video, as in SEED-Bench's first version"
            )
        if kind == "image":
            asked.append((where, row))
    each_once([str(*fields(row, where, question_id=int | str)) for where, row in asked], str(path))
    for where, row in asked:
        identity, kind, image, question, answer = fields(
            row, where, question_id=int | str, question_type_id=int, data_id=str, question=str, answer=str
        )
        if kind not in names:
            raise UserError(f"{where}: `question_type_id` is {kind}, expected a number of `question_type`")
        if answer not in tuple("ABCD"):
            raise UserError(f"{where}: `answer` is {answer!r}, expected one of A, B, C, D")
        options = map(str, fields(row, where, **dict.fromkeys(_CHOICES, int | str)))
        yield BenchmarkSample(
            str(identity),
            f"{IMAGE}\n{choices.prompt(question, list(options))}",
            (picture(folder / "SEED-Bench-image", image),),
            groups={"question_type": names[kind]},
            target=answer,
        )


def _score(sample: BenchmarkSample, answer: str) -> dict[str, float]:
    return choices.score(sample, answer) | {"exact_match": float(answer.strip() == sample.target)}


BENCHMARK = Benchmark(
    name="seed-bench",
    suite="general",
    samples=samples,
    score=_score,
    version=2,
    new_tokens=128,
    note="Questions about videos are left out: comparable figures are those of others for pictures.",
    files="SEED-Bench.json and pictures in SEED-Bench-image/",
)
