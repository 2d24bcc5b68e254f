"""Random access to the samples of a LLaVA JSON list or of JSON lines, without holding them in memory."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tga_jax.data import bucket
from tga_jax.errors import UserError
from tga_jax.workdir import AnyPath, is_remote

_CHUNK = 1 << 20  # bytes read at a time
_NEAR_THE_END = 16  # longer than any word of JSON, such as -Infinity or \ud83d\ude00
_BLANKS = re.compile(r"[ \t\r\n]*")
_ROW = np.dtype([("offset", "<u8"), ("line", "<u4")])


class SampleFile:
    """The values of a `.json` file that holds one list, or of a `.jsonl` file with one value a line.

    Making one reads the file once and keeps 12 bytes a row; a row is parsed when it is asked for. A list is checked
    whole at once, since nothing behind an error in it can be found; a bad line of JSON lines is an error when it is
    read. A byte order mark in front is skipped. May be pickled and read by several threads. One in a bucket is copied
    to this machine first.

    Raises UserError naming the file and the line: missing, empty, not a list, not JSON, not UTF-8, or cut off.
    """

    def __init__(self, path: AnyPath):
        self.path = path
        if path.suffix not in (".json", ".jsonl"):
            raise UserError(f"{path}: expected a name in .json (a list of samples) or .jsonl (a sample a line)")
        self._is_list = path.suffix == ".json"
        self._file: Path = bucket.copied(path) if is_remote(path) else path  # pyrefly: ignore
        try:
            with self._file.open("rb") as file:
                rows = _list_rows(file, path) if self._is_list else _line_rows(file)
                self._rows = np.fromiter(rows, _ROW)  # and one more: the end of the last
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}), expected samples in LLaVA's JSON") from error
        if not len(self):
            raise UserError(f"{path}: empty, expected samples in LLaVA's JSON")

    def __len__(self) -> int:
        return len(self._rows) - 1

    def __getitem__(self, index: int) -> Any:
        """The JSON value of a row. Raises UserError naming the line if it is not JSON or not UTF-8."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        start, end = (int(offset) for offset in self._rows["offset"][index : index + 2])
        try:
            with self._file.open("rb") as file:
                file.seek(start)
                text = file.read(end - start).decode().rstrip(" \t\r\n")
            return json.loads(text.removesuffix(",") if self._is_list else text)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error
        except UnicodeDecodeError as error:
            raise UserError(f"{self.where(index)}: not UTF-8 (byte {start + error.start} of the file)") from error
        except (ValueError, RecursionError) as error:
            reason = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
            raise UserError(f"{self.where(index)}: not JSON ({reason})") from error

    def where(self, index: int) -> str:
        """`file.jsonl: line 12`; in a list, which may stand on one line, `file.json: line 12, item 4`; from 1 on."""
        return f"{self.path}: line {self._rows['line'][index]}" + (f", item {index + 1}" if self._is_list else "")


def _bom(file: BinaryIO) -> int:
    """How many bytes of a UTF-8 byte order mark the file begins with: 3 or 0. Leaves the file behind them."""
    file.seek(0)
    size = len(codecs.BOM_UTF8) if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8 else 0
    file.seek(size)
    return size


def _line_rows(file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(offset, number) of every line that is not blank, and of the end."""
    offset, number = _bom(file), 0
    for number, line in enumerate(file, 1):
        if not line.isspace():
            yield offset, number
        offset += len(line)
    yield offset, number


def _list_rows(file: BinaryIO, path: AnyPath) -> Iterator[tuple[int, int]]:
    """(offset, line) of every value of the list, and of its end."""
    # Latin-1 makes one character of every byte, so that places in the text are offsets; UTF-8 is checked apart.
    decode = json.JSONDecoder().raw_decode
    utf8 = codecs.getincrementaldecoder("utf-8")()
    text, at = "", 0  # what is held of the file, and how far it is done with
    start, line = _bom(file), 1  # offset in the file of the text's first character; line of the character `at`

    def fail(place: int, what: str) -> UserError:
        return UserError(f"{path}: line {line + text.count(chr(10), at, place)}: {what}")

    def move(place: int) -> None:
        nonlocal at, line
        at, line = place, line + text.count("\n", at, place)

    def more() -> bool:
        nonlocal text, at, start
        text, at, start = text[at:], 0, start + at
        chunk = file.read(max(_CHUNK, len(text)))  # doubling: a long sample is not parsed anew for every chunk
        text, held = text + chunk.decode("latin-1"), start + len(text)
        try:
            utf8.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            offset = held + len(chunk) - len(error.object) + error.start
            raise fail(offset - start, f"not UTF-8 (byte {offset} of the file)") from error
        return bool(chunk)

    def following() -> str:
        """The next character that is not blank; "" at the end of the file."""
        while True:
            move(_BLANKS.match(text, at).end())  # pyrefly: ignore
            if at < len(text) or not more():
                return text[at : at + 1]

    def skip_value() -> None:
        while True:
            try:
                length = decode(text, at)[1] - at
                if at + length + _NEAR_THE_END < len(text) or not more():  # or the text may end within a number
                    return move(at + length)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos + _NEAR_THE_END > len(text)
                if not cut:
                    raise fail(error.pos, f"not JSON ({error.msg})") from error
                place = error.pos - at
                if not more():
                    raise fail(place, f"not JSON ({error.msg}), or the file breaks off") from error
            except (ValueError, RecursionError) as error:
                raise fail(at, f"not JSON ({error})") from error

    if (first := following()) not in ("[", ""):
        raise fail(at, f"{first!r}, expected a list of samples; JSON lines are called .jsonl")
    move(at + 1)
    if first and following() != "]":
        while True:
            following()
            yield start + at, line
            skip_value()
            if (after := following()) == "]":
                break
            if after != ",":
                found = repr(after) if after else "the file breaks off"
                raise fail(at, f"{found}, expected a comma or the end of the list")
            move(at + 1)
    yield start + at, line
    move(at + 1)
    if after := following():
        raise fail(at, f"{after!r} behind the list, expected nothing")
