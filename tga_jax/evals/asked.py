"""Whether stored answers were given to the questions and pictures that the data hold now."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tga_jax.data import fingerprint
from tga_jax.errors import UserError
from tga_jax.evals.asking import Question
from tga_jax.workdir import Content, Input, check_inputs, differences, read_json, write_json

_PICTURES = 32  # of a benchmark, evenly spaced among the questions that have one


def of(question: Question) -> dict[str, Any]:
    """What a row of answers has of the question itself."""
    sample = question.sample
    return {
        "n": question.number,
        "id": sample.id,
        "input": question.input,
        "question": question.text,
        "groups": dict(sample.groups),
        "harmful": sample.harmful,
        "target": sample.target,
    }


def _pictures(asked: Sequence[Question]) -> Content:
    """Of some pictures, those that can be read, the size and a hash of their pixels."""
    shown = [question for question in asked if question.images]
    found: Content = {}
    for i in sorted({len(shown) * i // _PICTURES for i in range(_PICTURES)} if shown else ()):
        try:
            found[shown[i].sample.id] = fingerprint.of_bytes(shown[i].images[0]().tobytes())
        except UserError:  # the run itself says so, if it comes to this question
            continue
    return found


def check(
    rows: Sequence[dict[str, Any]], asked: Sequence[Question], answers: Path, folder: Path, first: bool, whole: bool
) -> None:
    """Raises UserError, naming the question, unless `asked` is what the rows answer.

    answers: the benchmark's file, beside which a fingerprint of its pictures is kept; folder: of its data; first:
    whether this process may write; whole: whether the rows are to be of all questions.
    """

    def fail(what: str) -> UserError:
        return UserError(
            f"{answers}: answers other data than {folder} holds now: {what}; put that back, or choose another --to"
        )

    if len(rows) > len(asked) or (whole and len(rows) < len(asked)):
        raise fail(f"{len(rows)} questions are answered and {len(asked)} there")
    for row in rows:
        if row["n"] >= len(asked):
            raise fail(f"question {row['n']} is answered and not there")
        now = json.loads(json.dumps(of(asked[row["n"]])))
        if found := differences({name: row.get(name) for name in now}, now, f"question {row['n']}"):
            raise fail(", ".join(found[:3]))
    path = answers.with_suffix(".pictures.json")
    known = read_json(path, "fingerprints of pictures; remove it") if path.exists() else {}
    pictures = _pictures(asked)
    given = {"the data": Input(str(folder), pictures, some=True)}
    check_inputs({"the data": known}, given, str(answers), "choose another --to")
    if first and not pictures.keys() <= known.keys():
        write_json(path, pictures | known)
