"""MMBench (Liu et al., 2023): questions of two to four choices, with their pictures in one file.

    mmbench_*.tsv     such as mmbench_dev_20230712.tsv: index, question, hint, A to D, answer, category, image, ...

The only such file of the folder is used. Every row is scored as a question of its own. MMBench's official figure is
circular, which this is not: the same question is there again with its choices moved on (its index plus 1,000,000 and
more), and counts as right only if all of them are. It comes from the server, which alone knows the answers of the test
split; `predictions.tsv` has what it asks for.
"""

import base64
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from tga_jax.data import images
from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError
from tga_jax.evals import choices
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample
from tga_jax.evals.questions import each_once
from tga_jax.workdir import write_text

_NEEDED = ("index", "question", "A", "B", "C", "D", "image")


def _empty(cell: str | None) -> bool:
    return cell is None or cell.lower() in ("", "nan", "none")


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


def _sample(row: Mapping[str, str], where: str) -> BenchmarkSample:
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
        f"{IMAGE}\n{choices.prompt(hint + row['question'], options)}",
        (partial(_picture, row["image"], where),),
        groups={} if _empty(row.get("category")) else {"category": row["category"]},
        target=row.get("answer"),
    )


def samples(folder: Path) -> list[BenchmarkSample]:
    files = sorted(folder.glob("mmbench_*.tsv"))
    if len(files) != 1:
        raise UserError(f"{folder}: {len(files)} files called mmbench_*.tsv, expected one")
    found = [_sample(row, where) for where, row in _rows(files[0])]
    each_once([sample.id for sample in found], str(files[0]))
    return found


def _export(pairs: Sequence[tuple[BenchmarkSample, str]], folder: Path) -> None:
    table = io.StringIO()
    rows = csv.writer(table, delimiter="\t", lineterminator="\n")
    rows.writerows([("index", "prediction"), *((sample.id, answer) for sample, answer in pairs)])
    write_text(folder / "predictions.tsv", table.getvalue())


BENCHMARK = Benchmark(
    name="mmbench",
    suite="general",
    samples=samples,
    score=choices.score,
    export=_export,
    files="one mmbench_*.tsv, such as mmbench_dev_20230712.tsv",
)
