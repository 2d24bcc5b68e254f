"""`tga bench judges`: the judges that look at words alone against people's labels of refusals.

What is read, by its own names: XSTest's completions (github.com/paul-rottger/xstest, `model_completions/*.csv`), MSTS's
answers (github.com/paul-rottger/msts-multimodal-safety, `data/response_annotations/english_*.csv`) and VLGuard's gold
responses (github.com/ys-zong/VLGuard, `data/{train,test}.json`), which are refusals where the question is unsafe.
"""

import csv
import dataclasses
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import rich.console

from tga_jax.bench import figures
from tga_jax.errors import UserError
from tga_jax.evals.benchmarks.fields import csv_table
from tga_jax.evals.judges import Judging
from tga_jax.evals.judges.phrases import REFUSALS
from tga_jax.evals.judges.published import PUBLISHED
from tga_jax.evals.questions import fields
from tga_jax.evals.summary import markdown_table
from tga_jax.workdir import read_json, write_json

JUDGES: tuple[Judging, ...] = (REFUSALS, *PUBLISHED.values())


@dataclasses.dataclass(frozen=True)
class Labelled:
    """label: "refusal", "partial" or "answer"; source: the model or the part that it is of."""

    question: str
    answer: str
    label: str
    source: str


_XSTEST = {"1_full_compliance": "answer", "2_full_refusal": "refusal", "3_partial_refusal": "partial"}
_MSTS_REFUSAL = "1.2 - refusal only"
_MSTS_NEITHER = "1.1 - rejection or rebuttal"  # "No, you should not": an answer or a refusal
_MSTS_NO_ANSWERS = ("API RetryError", "FinishReason.")  # what the endpoint said, not a model


def _table(path: Path, *columns: str) -> Iterator[tuple[str, list[str]]]:
    """Every row with its place. Raises UserError for a missing column or a short row."""
    for where, row in csv_table(path, columns):
        yield where, fields(row, where, **dict.fromkeys(columns, str))


def _xstest(path: Path) -> Iterator[Labelled]:
    for where, (question, answer, label) in _table(path, "prompt", "completion", "final_label"):
        if label not in _XSTEST:
            raise UserError(f"{where}: final_label {label!r}, expected one of {', '.join(_XSTEST)}")
        yield Labelled(question, answer, _XSTEST[label], path.stem)


def _msts(path: Path) -> Iterator[Labelled]:
    for _, (question, answer, label, model) in _table(path, "prompt_text", "response", "final_taxonomy", "model"):
        if label != _MSTS_NEITHER and not answer.startswith(_MSTS_NO_ANSWERS):
            yield Labelled(question, answer, "refusal" if label == _MSTS_REFUSAL else "answer", model)


def _vlguard(path: Path) -> Iterator[Labelled]:
    expected = "VLGuard's list of samples"
    rows = read_json(path, expected, kind=list)
    for number, row in enumerate(rows):
        (pairs,) = fields(row, f"{path}: sample {number}", **{"instr-resp": list})
        for pair in pairs:
            where = f"{path}: sample {number}: instr-resp"
            (answer,) = fields(pair, where, response=str)
            name = next((n for n in ("safe_instruction", "unsafe_instruction", "instruction") if n in pair), None)
            if name is None:
                raise UserError(
                    f"{where}: no instruction, expected safe_instruction, unsafe_instruction or instruction"
                )
            (question,) = fields(pair, where, **{name: str})
            yield Labelled(question, answer, "answer" if name == "safe_instruction" else "refusal", path.stem)


def read(path: Path) -> tuple[str, list[Labelled]]:
    """(the data set, its answers). Raises UserError for a file that is none of the three."""
    if path.suffix == ".json":
        return "vlguard", list(_vlguard(path))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            columns = next(csv.reader(file), [])
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}), expected labelled answers") from error
    if "completion" in columns:
        return "xstest", list(_xstest(path))
    if "final_taxonomy" in columns:
        return "msts", list(_msts(path))
    raise UserError(f"{path}: has neither XSTest's column completion nor MSTS's final_taxonomy")


def measure(answers: Sequence[Labelled], judge: Judging) -> dict[str, Any]:
    """How a judge finds full refusals among answers that people called full refusals or answers.

    precision, recall, f1: None where there is nothing to divide by. partial: what the judge says of partial refusals,
    which count in none of the three; what it calls partial it does not call a refusal. sources: of each, which share of
    these answers is a refusal by the people and by the judge.
    """
    verdicts = judge.verdicts([(answer.question, answer.answer) for answer in answers])
    counts = Counter((a.label, v == "refusal") for a, v in zip(answers, verdicts, strict=True))
    hits, false, missed = counts["refusal", True], counts["answer", True], counts["refusal", False]
    precision = hits / (hits + false) if hits + false else None
    recall = hits / (hits + missed) if hits + missed else None
    sources = defaultdict(list)
    for answer, verdict in zip(answers, verdicts, strict=True):
        if answer.label != "partial":
            sources[answer.source].append((answer.label == "refusal", verdict == "refusal"))
    return {
        "answers": sum(n for (label, _), n in counts.items() if label != "partial"),
        "refusals": hits + missed,
        "precision": precision,
        "recall": recall,
        "f1": 2 * hits / (2 * hits + false + missed) if hits + false + missed else None,
        "partial": dict(Counter(v for a, v in zip(answers, verdicts, strict=True) if a.label == "partial")),
        "sources": {
            name: {"people": sum(p for p, _ in own) / len(own), "judge": sum(j for _, j in own) / len(own)}
            for name, own in sources.items()
        },
    }


def report(console: rich.console.Console, target: Path | None, files: Sequence[Path]) -> None:
    """Prints a table. files: those of one data set are counted together; target: the figures go there as JSON."""
    sets: dict[str, list[Labelled]] = {}
    for path in files:
        name, answers = read(path)
        sets.setdefault(name, []).extend(answers)
    found = {
        name: {f"{judge.name}-{judge.version}": measure(answers, judge) for judge in JUDGES}
        for name, answers in sets.items()
    }
    body = [
        [
            name,
            judge,
            str(own["answers"]),
            str(own["refusals"]),
            *map(_share, (own["precision"], own["recall"], own["f1"])),
        ]
        for name, judges in found.items()
        for judge, own in judges.items()
    ]
    head = ["labels", "judge", "answers", "refusals", "precision", "recall", "F1"]
    console.print(markdown_table(head, body), markup=False, highlight=False, soft_wrap=True)
    for name, judges in found.items():
        sources = next(iter(judges.values()))["sources"]
        rows = [
            [source, _share(share["people"]), *(_share(own["sources"][source]["judge"]) for own in judges.values())]
            for source, share in sources.items()
        ]
        console.print(f"\n{name}: shares of refusals", markup=False)
        console.print(
            markdown_table(["source", "people", *judges], rows), markup=False, highlight=False, soft_wrap=True
        )
    if target is not None:
        write_json(target, {"bench": "judges", **figures.circumstances(), "sets": found})


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
