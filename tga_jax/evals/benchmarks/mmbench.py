"""MMBench (Liu et al., 2023): questions of two to four choices, with their pictures in one file.

    mmbench_*.tsv, MMBench_*.tsv     such as mmbench_dev_20230712.tsv, or MMBench_DEV_EN.tsv as VLMEvalKit has it:
                                     index, question, hint, A to D, answer, category, image, ...

The only such file of the folder in the language is used, the Chinese ones being those with "cn" in their names:
`mmbench-cn` asks those. An image cell holds a picture in base64, or, in VLMEvalKit's files, the index of the row that
has it. "accuracy" scores every row as a question of its own. "circular_accuracy" is MMBench's own figure: the same
question is there several times with its choices moved on (at its index plus 1,000,000 and more), and counts as right
only if every one of them is answered rightly. It is absent if a limit left some of them out, or the file has no
answers. Letters are read by rules alone; MMBench's evaluation asks a language model about other answers.

`predictions.tsv` has the columns that VLMEvalKit evaluates: the file's, without the picture, and `prediction`.
"""

import base64
import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from tga_jax.data import images
from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError
from tga_jax.evals import choices
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.questions import each_once
from tga_jax.workdir import write_text

_NEEDED = ("index", "question", "A", "B", "C", "D", "image")
_COPIES = 1_000_000  # what is added to a question's index with each move of its choices
_REFERENCE = 64  # a cell of so many characters or fewer holds an index: VLMEvalKit's rule
_CHINESE = "请直接回答选项字母。"  # LLaVA's instruction for the Chinese files
# What pandas reads as a missing cell, with which LLaVA and VLMEvalKit read the file.
_MISSING = {
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
}  # fmt: skip


def _empty(cell: str | None) -> bool:
    return cell is None or cell in _MISSING or cell.lower() in ("nan", "none")


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    # A picture is one field, far above the usual 128 KiB. The limit is the process's, and a C long.
    csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", strict=True)
            if missing := [name for name in _NEEDED if name not in (reader.fieldnames or ())]:
                raise UserError(f"{path}: lacks the column {', '.join(missing)}, expected MMBench's tsv")
            for row in reader:
                where = f"{path}: line {reader.line_num}"
                if None in row or None in row.values():
                    raise UserError(f"{where}: expected {len(reader.fieldnames or ())} cells, one for each column")
                yield where, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}), expected MMBench's tsv") from error


def _picture(cell: str, where: str) -> Image.Image:
    try:
        data = base64.b64decode(cell)
    except ValueError as error:
        raise UserError(f"{where}: `image` is not base64 ({error})") from error
    return images.decode(data, where)


def _with_pictures(rows: Sequence[tuple[str, dict[str, str]]]) -> dict[str, tuple[str, str]]:
    """(place, base64) of each row's picture, by the row's index. Raises UserError for a cell that leads to none."""
    found = {row["index"]: (where, row["image"]) for where, row in rows}
    for where, row in rows:
        if len(cell := row["image"]) <= _REFERENCE:
            other = found.get(cell, ("", ""))
            if len(other[1]) <= _REFERENCE:
                raise UserError(f"{where}: `image` is {cell!r}, expected base64, or the index of a row that has it")
            found[row["index"]] = other
    return found


def _group(index: str) -> int:
    return int(index) % _COPIES


def _sample(
    row: Mapping[str, str], where: str, picture: tuple[str, str], copies: int, instruction: str
) -> BenchmarkSample:
    options = []
    for letter in "ABCD":
        if _empty(row[letter]):
            break
        options.append(row[letter])
    if not options:
        raise UserError(f"{where}: no `A`, expected two to four choices")
    if "answer" in row and row["answer"] not in list(choices.LETTERS[: len(options)]):
        raise UserError(f"{where}: `answer` is {row['answer']!r}, expected the letter of one of {len(options)} choices")
    hint = "" if _empty(row.get("hint")) else f"{row['hint']}\n"
    return BenchmarkSample(
        row["index"],
        f"{IMAGE}\n{choices.prompt(hint + row['question'], options, instruction)}",
        (partial(_picture, picture[1], picture[0]),),
        groups={} if _empty(row.get("category")) else {"category": row["category"]},
        target={"copies": copies, "row": {name: cell for name, cell in row.items() if name != "image"}},
    )


def samples(folder: Path, chinese: bool = False) -> list[BenchmarkSample]:
    files = [
        path
        for path in sorted([*folder.glob("mmbench_*.tsv"), *folder.glob("MMBench_*.tsv")])
        if ("cn" in path.stem.lower().split("_")) == chinese
    ]
    if len(files) != 1:
        which = "with cn in their names" if chinese else "without cn in their names"
        raise UserError(f"{folder}: {len(files)} files called mmbench_*.tsv or MMBench_*.tsv {which}, expected one")
    rows = list(_rows(files[0]))
    for where, row in rows:
        if not row["index"].isdecimal():
            raise UserError(f"{where}: `index` is {row['index']!r}, expected a whole number")
    each_once([row["index"] for _, row in rows], str(files[0]))
    pictures, copies = _with_pictures(rows), Counter(_group(row["index"]) for _, row in rows)
    instruction = _CHINESE if chinese else choices.INSTRUCTION
    return [
        _sample(row, where, pictures[row["index"]], copies[_group(row["index"])], instruction) for where, row in rows
    ]


def _score(sample: BenchmarkSample, answer: str) -> dict[str, float]:
    return choices.score(dataclasses.replace(sample, target=sample.target["row"].get("answer")), answer)


def _summarize(pairs: Sequence[tuple[Any, str]]) -> dict[str, float]:
    right: dict[int, list[bool]] = {}
    copies: dict[int, int] = {}
    for target, answer in pairs:
        if (label := target["row"].get("answer")) is None:
            return {}
        group = _group(target["row"]["index"])
        right.setdefault(group, []).append(choices.letter(answer) == label)
        copies[group] = target["copies"]
    if any(len(right[group]) != count for group, count in copies.items()) or max(copies.values(), default=1) == 1:
        return {}
    return {"circular_accuracy": sum(map(all, right.values())) / len(right)}


def _export(pairs: Sequence[tuple[BenchmarkSample, str]], folder: Path, _: Path) -> None:
    table = io.StringIO()
    rows = csv.DictWriter(table, [*pairs[0][0].target["row"], "prediction"], delimiter="\t", lineterminator="\n")
    rows.writeheader()
    rows.writerows(sample.target["row"] | {"prediction": answer} for sample, answer in pairs)
    write_text(folder / "predictions.tsv", table.getvalue())


BENCHMARK = Benchmark(
    name="mmbench",
    suite="general",
    samples=samples,
    score=_score,
    summarize=_summarize,
    export=_export,
    version=2,
    files="one mmbench_*.tsv or MMBench_*.tsv, such as mmbench_dev_20230712.tsv",
)
