"""VQAv2 (Goyal et al., 2017): short answers to questions about COCO's pictures.

    llava_vqav2_mscoco_<split>.jsonl        questions in LLaVA's form
    v2_mscoco_val2014_annotations.json      people's answers, where they are public
    val2014/ or test2015/                   COCO's pictures

The split is the first that is there of val2014, test-dev2015 and test2015. Without annotations there is no accuracy,
only the file for the server, `predictions.json`. The server refuses a file without all questions of test2015: if
`llava_vqav2_mscoco_test2015.jsonl` lies beside the questions of test-dev2015, those that were not asked are in it with
an empty answer, as LLaVA's script writes them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from tga_jax.errors import UserError
from tga_jax.evals import vqa
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.questions import fields, labels_of, read, to_sample
from tga_jax.workdir import read_json, write_json

PICTURES = {"val2014": "val2014", "test-dev2015": "test2015", "test2015": "test2015"}  # by split


def _answers(path: Path) -> Iterator[tuple[str, list[str]]]:
    [rows] = fields(read_json(path, "VQAv2's annotations"), str(path), annotations=list)
    for number, row in enumerate(rows):
        where = f"{path}: annotations[{number}]"
        identity, answers = fields(row, where, question_id=int, answers=list)
        yield str(identity), vqa.checked_answers([fields(a, where, answer=str)[0] for a in answers], where)


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    files = {split: folder / f"llava_vqav2_mscoco_{split}.jsonl" for split in PICTURES}
    split = next((split for split, file in files.items() if file.is_file()), "test-dev2015")
    questions = read(files[split])
    for question in questions:
        if not question.id.isdecimal():
            raise UserError(f"{question.where}: `question_id` is {question.id!r}, expected a whole number")
    path = folder / f"v2_mscoco_{split}_annotations.json"
    answers = _answers(path) if path.is_file() else None
    labels = labels_of(
        [q.id for q in questions], answers, f"{files[split]} and {path}" if answers else str(files[split])
    )
    for question in questions:
        yield to_sample(question, folder / PICTURES[split], target=labels[question.id])


def _export(pairs: Sequence[tuple[BenchmarkSample, str]], folder: Path, data: Path) -> None:
    answers = {sample.id: vqa.normalize(answer) for sample, answer in pairs}
    whole = data / "llava_vqav2_mscoco_test2015.jsonl"
    ids = [question.id for question in read(whole)] if whole.is_file() else []
    if not answers.keys() <= {*ids}:  # of val2014
        ids = list(answers)
    rows = [{"question_id": int(identity), "answer": answers.get(identity, "")} for identity in ids]
    write_json(folder / "predictions.json", rows)


BENCHMARK = Benchmark(
    name="vqav2",
    suite="general",
    samples=samples,
    score=vqa.score,
    export=_export,
    new_tokens=128,
    files="llava_vqav2_mscoco_{val2014,test-dev2015,test2015}.jsonl, one of them; pictures in val2014/ or test2015/; "
    "v2_mscoco_val2014_annotations.json for the accuracy",
    note="The server takes a file with all questions of test2015 alone; llava_vqav2_mscoco_test2015.jsonl beside the "
    "questions of test-dev2015 adds those that were not asked, with empty answers.",
)
