"""Files of questions in the shape of LLaVA's evaluation folders, and joining them with their labels."""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any

from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError
from tga_jax.evals.benchmark import BenchmarkSample, joined, picture

SHORT_ANSWER = "Answer the question using a single word or phrase."

_KINDS: dict[Any, str] = {
    str: "a string",
    int: "a whole number",
    list: "a list",
    dict: "an object",
    int | str: "a string or a whole number",
}


@dataclasses.dataclass(frozen=True)
class QuestionLine:
    """A line of a file. where: the file and the line, for messages; image: its name; category: "" without one."""

    where: str
    id: str
    image: str
    text: str
    category: str


def read(path: Path) -> list[QuestionLine]:
    """Raises UserError naming the file and the line, for what cannot be read or lacks a field."""
    found = []
    for where, row in json_lines(path, "questions in JSON lines"):
        identity, image, text = fields(row, where, question_id=int | str, image=str, text=str)
        found.append(QuestionLine(where, str(identity), image, text, str(row.get("category", ""))))
    return found


def json_lines(path: Path, expected: str) -> Iterator[tuple[str, Any]]:
    """(file and line, value) of the lines that are not blank, whatever the file is called."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file, expected {expected}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}), expected {expected}") from error
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}: line {number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where}: not JSON ({error}), expected {expected}") from error
            yield where, value


def fields(value: Any, where: str, /, **kinds: type | UnionType) -> list[Any]:
    """The values of an object's fields. Raises UserError for one that is missing or of another kind."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: {json.dumps(value)[:60]}, expected an object")
    for name, kind in kinds.items():
        if name not in value:
            raise UserError(f"{where}: no `{name}`, expected {_KINDS[kind]}")
        if not isinstance(value[name], kind) or isinstance(value[name], bool):
            raise UserError(f"{where}: `{name}` is {json.dumps(value[name])[:60]}, expected {_KINDS[kind]}")
    return [value[name] for name in kinds]


def labels_of(ids: Sequence[str], labels: Iterable[tuple[str, Any]] | None, where: str) -> dict[str, Any]:
    """The label of each question, None without any labels. Raises UserError unless they join one to one."""
    pairs = [(identity, None) for identity in set(ids)] if labels is None else list(labels)
    joined(ids, [identity for identity, _ in pairs], where)
    return dict(pairs)


def each_once(ids: Sequence[str], where: str) -> None:
    """Raises UserError for an id that is there twice."""
    labels_of(ids, None, where)


def instructed(text: str, instruction: str) -> str:
    """The question with what is expected of an answer behind it, unless it says so already."""
    return text if instruction in text else f"{text}\n{instruction}"


def to_sample(
    question: QuestionLine, pictures: Path, instruction: str | None = SHORT_ANSWER, **rest: Any
) -> BenchmarkSample:
    """pictures: the folder of its image; rest: fields of `BenchmarkSample`."""
    text = instructed(question.text, instruction) if instruction else question.text
    return BenchmarkSample(question.id, f"{IMAGE}\n{text}", (picture(pictures, question.image),), **rest)
