"""Answers on disk: JSON lines in the order of the questions, written by any number of processes, in any order, once."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tga_jax.errors import UserError
from tga_jax.workdir import disk_errors, replacing


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a file. Raises UserError naming the line that is not one of ours."""
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            rows.append(json.loads(line))
            rows[-1]["n"]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: line {number} is no JSON object with a number n; remove the file") from error
    return rows


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
        return {json.loads(line)["n"]: line for line in lines}

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
                file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())

    def finish(self) -> None:
        """Makes the whole file. To be called by one process, when all of them are done."""
        if self._is_whole:
            return
        with replacing(self.path) as aside:
            aside.write_bytes(b"".join(line for _, line in sorted(self._parts().items())))
        for part in self.path.parent.glob(self._pattern):
            part.unlink()
        self._is_whole = True
