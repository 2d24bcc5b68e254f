"""Answers on disk: JSON lines in the order of the questions, written by any number of processes, in any order, once."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from tga_jax.errors import UserError
from tga_jax.evals.judge import Verdict
from tga_jax.workdir import disk_errors, json_line, reading, replacing

# What must be in a row, beside its number.
ANSWER: dict[str, Any] = {
    "id": str,
    "input": ("image", "text"),
    "question": str,
    "answer": str,
    "groups": dict,
    "harmful": (True, False, None),
}
VERDICT: dict[str, Any] = {"verdict": get_args(Verdict)}


def read(path: Path, kind: Mapping[str, Any] = {}) -> list[dict[str, Any]]:
    """The rows of a whole file, by their numbers. kind: of its rows, `ANSWER` or `VERDICT`. Raises UserError naming the
    line that is not one of ours."""
    rows: list[Any] = []
    with reading(path, "what an evaluation wrote"):
        lines = path.read_bytes().split(b"\n")
    count, seen = len(lines) - (lines[-1] == b""), set()
    for number, line in enumerate(lines[:count]):
        try:
            row = json.loads(line, parse_constant=lambda name: _refuse(f"has {name}"))
            if not isinstance(row, dict) or type(row.get("n")) is not int:
                _refuse("is no JSON object with a number n")
            if not 0 <= row["n"] < count or row["n"] in seen:
                _refuse(f"is row {row['n']}, which is there already or one too many")
            seen.add(row["n"])
            for name, expected in kind.items():
                good = (
                    isinstance(row.get(name), expected) if isinstance(expected, type) else _is_one(row, name, expected)
                )
                if not good:
                    _refuse(f"has {row.get(name)!r:.60} as `{name}`")
            if kind is ANSWER and not all(isinstance(value, str) for value in row["groups"].values()):
                _refuse("has a group that is no text")
        except (ValueError, RecursionError) as error:
            reason = error if isinstance(error, _RowError) else "is no JSON object with a number n"
            raise UserError(f"{path}: line {number + 1} {reason}; remove the file") from error
        rows.append(row)
    return sorted(rows, key=lambda row: row["n"])


class _RowError(ValueError):
    pass


def _refuse(what: str) -> None:
    raise _RowError(what)


def _is_one(row: Mapping[str, Any], name: str, known: tuple[Any, ...]) -> bool:
    return name in row and any(type(row[name]) is type(one) and row[name] == one for one in known)


def verdicts(folder: Path, name: str, judge: str, count: int) -> list[Verdict]:
    """Of a judge on the answers to a benchmark, as many as these are. Raises UserError."""
    path = folder / "verdicts" / f"{name}.{judge}.jsonl"
    if len(found := read(path, VERDICT)) != count:
        raise UserError(f"{path}: {len(found)} verdicts on {count} answers, expected as many; remove the file")
    return [row["verdict"] for row in found]


def _whole_lines(path: Path) -> Iterator[bytes]:
    """Without the half line of a killed process."""
    with path.open("rb") as file:
        yield from (line for line in file if line.endswith(b"\n"))


class AnswerStore:
    """`<folder>/<name>.jsonl`, a row of which has its number under "n".

    Until there are `count` rows, each process appends to a part of its own, and reads those of all, also of an earlier
    run with more or fewer processes. The whole file has the rows in order, whoever made them and when. Raises UserError
    for a file with another number of rows.
    """

    def __init__(self, folder: Path, name: str, count: int, process: int = 0):
        self.path, self._count = folder / f"{name}.jsonl", count
        self._pattern, self._own = f".{name}.part-*", folder / f".{name}.part-{process}"
        self._ends_whole = False  # whether the own part is known to end with a whole line
        folder.mkdir(parents=True, exist_ok=True)
        self._is_whole = self.path.exists()
        if self._is_whole:
            rows = len(read(self.path))
            if rows != count:
                raise UserError(f"{self.path}: has {rows} rows, expected {count}; remove it, or choose another folder")

    def _parts(self) -> dict[int, bytes]:
        lines = (line for part in sorted(self.path.parent.glob(self._pattern)) for line in _whole_lines(part))
        try:
            return {json.loads(line)["n"]: line for line in lines}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            what = "unfinished answers that are no JSON objects with a number n"
            raise UserError(f"{self.path.parent / self._pattern}: {what}; remove them") from error

    def rows(self) -> list[dict[str, Any]]:
        """Those that are there, in order."""
        if self._is_whole:
            return read(self.path)
        return [json.loads(line) for _, line in sorted(self._parts().items())]

    def missing(self) -> list[int]:
        done = range(self._count) if self._is_whole else self._parts().keys()
        return sorted(set(range(self._count)).difference(done))

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        with disk_errors(self.path.parent):
            if not self._ends_whole and self._own.exists():
                kept = sum(map(len, _whole_lines(self._own)))
                with self._own.open("rb+") as file:
                    file.truncate(kept)
            self._ends_whole = True
            with self._own.open("ab") as file:
                file.write("".join(json_line(row) for row in rows).encode())

    def finish(self) -> None:
        """Makes the whole file. To be called by one process, when all of them are done."""
        if self._is_whole:
            return
        with replacing(self.path) as aside:
            aside.write_bytes(b"".join(line for _, line in sorted(self._parts().items())))
        for part in self.path.parent.glob(self._pattern):
            part.unlink()
        self._is_whole = True
