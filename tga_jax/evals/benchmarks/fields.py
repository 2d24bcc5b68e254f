"""Reading benchmarks' files with errors that name the place."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError
from tga_jax.workdir import read_json


def string(row: Any, field: str, where: str) -> str:
    """The text of a row's field. Raises UserError if there is none, or if it holds an `<image>` of its own."""
    value = row.get(field) if isinstance(row, dict) else None
    if not isinstance(value, str) or not value.strip() or IMAGE in value:
        raise UserError(f"{where}: {value!r:.60} as `{field}`, expected text without {IMAGE}")
    return value


def json_table(path: Path, expected: str) -> dict[str, Any]:
    """The rows of a JSON object, by id. Raises UserError naming the file if it holds anything else."""
    rows = read_json(path, expected)
    if not rows:
        raise UserError(f"{path}: expected {expected}")
    return rows


def csv_table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Every row with its place, for messages. Raises UserError naming the file: unreadable, empty, or without them."""
    expected = f"expected a table with the columns {', '.join(columns)}"
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            found = reader.fieldnames or []
            rows = [(f"{path}: line {reader.line_num}", row) for row in reader]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}), {expected}") from error
    if not rows or not {*columns} <= {*found}:
        raise UserError(f"{path}: has {len(rows)} rows with the columns {', '.join(found)!r}, {expected}")
    yield from rows


def parquet_table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every row with its place, for messages. Raises UserError naming the file: unreadable, empty, or without them."""
    import pyarrow  # only where a benchmark has such a file: it takes a while to import
    import pyarrow.parquet

    expected = f"expected a table with the columns {', '.join(columns)}"
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: cannot be read ({error}), {expected}") from error
    if not rows or not {*columns} <= {*rows[0]}:
        found = ", ".join(rows[0]) if rows else ""
        raise UserError(f"{path}: has {len(rows)} rows with the columns {found!r}, {expected}")
    yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows))
