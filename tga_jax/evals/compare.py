"""`tga compare A B`: two evaluations of the same questions, pair by pair."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console

from tga_jax.errors import UserError
from tga_jax.evals import outcomes, store
from tga_jax.evals.benchmarks import BENCHMARKS
from tga_jax.evals.outcomes import Outcome
from tga_jax.evals.summary import markdown_table
from tga_jax.report.intervals import paired_difference
from tga_jax.workdir import differences, read_json, write_json


def _read(folder: Path) -> tuple[dict[str, Any], dict[tuple[str, str], list[Outcome]]]:
    """(settings, outcomes by (benchmark, judge)). Raises UserError for a folder that is no finished evaluation."""
    results = read_json(folder / "results.json", "an evaluation's results", ("settings", "benchmarks"))
    found = {}
    for name in results["benchmarks"]:
        if name not in BENCHMARKS:
            raise UserError(f"{folder}: unknown benchmark {name!r}, expected some of {', '.join(BENCHMARKS)}")
        rows = store.read(folder / "answers" / f"{name}.jsonl")
        if BENCHMARKS[name].score is None and BENCHMARKS[name].export is not None:
            found[name, ""] = []  # its own scorer has them
        if BENCHMARKS[name].score is not None:
            found[name, ""] = outcomes.scored(BENCHMARKS[name], rows)
        for judge, own in results["benchmarks"][name].get("judges", {}).items():
            verdicts = [row["verdict"] for row in store.read(folder / "verdicts" / f"{name}.{judge}.jsonl")]
            found[name, judge] = outcomes.judged(rows, verdicts, own.get("rubric", "refusal"))
    return results["settings"], found


def _pairs(name: str, a: Sequence[Outcome], b: Sequence[Outcome]) -> list[tuple[Outcome, Outcome]]:
    """Joined by id and input. Raises UserError if they differ."""
    ours, theirs = ({(o.id, o.input): o for o in side} for side in (a, b))
    if alone := sorted(ours.keys() ^ theirs.keys()):
        raise UserError(f"{name}: {len(alone)} questions are in one evaluation only, such as {' as '.join(alone[0])}")
    return [(ours[key], theirs[key]) for key in ours]


def compare(first: Path, second: Path, seed: int = 0) -> dict[str, Any]:
    """Rows {"benchmark", "judge", "input", "measure", "a", "b", "difference", "low", "high", "n"}, the settings that
    differ, and (benchmark, judge) of what has no row. Raises UserError where nothing, or not the same, was asked."""
    (one, a), (two, b) = _read(first), _read(second)
    rows = []
    for name, judge in a.keys() & b.keys():
        pairs = _pairs(name, a[name, judge], b[name, judge])
        for way in sorted({x.input for x, _ in pairs}):
            own = [(x.values, y.values) for x, y in pairs if x.input == way]
            for measure in dict.fromkeys(m for x, _ in own for m in x):
                x, y = zip(*((v[measure], w[measure]) for v, w in own if measure in v and measure in w), strict=True)
                difference, low, high = paired_difference(x, y, seed)
                rows.append({
                    "benchmark": name, "judge": judge, "input": way, "measure": measure, "n": len(x),
                    "a": sum(x) / len(x), "b": sum(y) / len(y), "difference": difference, "low": low, "high": high,
                })  # fmt: skip
    if not rows:
        raise UserError(f"{first} and {second}: no benchmark with the same judge in both")
    rows.sort(key=lambda row: (row["benchmark"], row["judge"], row["input"]))
    alone = sorted((a.keys() | b.keys()) - {(row["benchmark"], row["judge"]) for row in rows})
    return {
        "a": str(first),
        "b": str(second),
        "differs": differences(one, two, "settings"),
        "not_compared": [list(pair) for pair in alone],
        "rows": rows,
    }


def report(first: Path, second: Path, console: rich.console.Console, path: Path | None = None, seed: int = 0) -> None:
    """Prints the table; path: it goes there as JSON."""
    found = compare(first, second, seed)
    lines = [
        f"{name}{f', {judge}' if judge else ''}: not compared, not scored in both"
        for name, judge in found["not_compared"]
    ]
    for line in [*found["differs"], *lines]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    body = [
        [
            *(row[name] for name in ("benchmark", "judge", "input", "measure")),
            *(f"{100 * row[side]:.1f}" for side in ("a", "b")),
            "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * row[name] for name in ("difference", "low", "high"))),
            str(row["n"]),
        ]
        for row in found["rows"]
    ]
    head = ["benchmark", "judge", "input", "measure", f"A: {first}", f"B: {second}", "B - A [95 %]", "pairs"]
    console.print(markdown_table(head, body), markup=False, highlight=False, soft_wrap=True)
    if path is not None:
        write_json(path, found)
