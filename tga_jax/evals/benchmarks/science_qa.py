"""ScienceQA (Lu et al., 2022): school questions of two to five choices, about half of them with a picture.

    llava_test_CQM-A.json              LLaVA's questions, in the form of its training data
    problems.json, pid_splits.json     ScienceQA's own, with the answers and the ids of the test split
    images/test/                       its pictures

Questions without a picture are asked as text alone, so the accuracy over both is in the summary.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tga_jax.data import llava_json
from tga_jax.data.samples import SampleFile
from tga_jax.errors import UserError
from tga_jax.evals import choices
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample, joined, picture
from tga_jax.evals.questions import fields, instructed
from tga_jax.workdir import read_json


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    rows, splits, problems = (folder / n for n in ("llava_test_CQM-A.json", "pid_splits.json", "problems.json"))
    file = SampleFile(rows)
    questions = [llava_json.parse(file[i], file.where(i)) for i in range(len(file))]
    [test] = fields(read_json(splits, "ScienceQA's splits"), str(splits), test=list)
    joined([question.id for question in questions], map(str, test), f"{rows} and the test split of {splits}")
    known = read_json(problems, "ScienceQA's problems")
    for question in questions:
        where = f"{problems}: problem {question.id!r}"
        [problem] = fields(known, str(problems), **{question.id: dict})
        own, answer, subject = fields(problem, where, choices=list, answer=int, subject=str)
        if not 0 <= answer < len(own) <= len(choices.LETTERS):
            raise UserError(
                f"{where}: `answer` is {answer} of {len(own)} choices, expected the number of one, from 0 on"
            )
        yield BenchmarkSample(
            question.id,
            instructed(question.turns[0][0], choices.INSTRUCTION),
            tuple(picture(folder / "images/test", name) for name in question.images),
            groups={"image": "with" if question.images else "without", "subject": subject},
            target=choices.LETTERS[answer],
        )


def _summarize(pairs: Sequence[tuple[Any, str]]) -> dict[str, float]:
    return {"accuracy": sum(choices.letter(answer) == target for target, answer in pairs) / max(len(pairs), 1)}


BENCHMARK = Benchmark(
    name="scienceqa",
    suite="general",
    samples=samples,
    score=choices.score,
    summarize=_summarize,
    version=2,
    files="llava_test_CQM-A.json, problems.json, pid_splits.json and pictures in images/test/",
)
