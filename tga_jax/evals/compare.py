"""`tga compare A B`: two evaluations of the same questions, pair by pair."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console

from tga_jax.errors import UserError
from tga_jax.evals import outcomes, store, summary
from tga_jax.evals import page as pages
from tga_jax.evals.benchmarks import BENCHMARKS
from tga_jax.evals.outcomes import Outcome
from tga_jax.report.intervals import paired_difference
from tga_jax.workdir import differences, read_json, write_json, write_text

_RUBRICS = ("None", "refusal", "safety")  # None: of an earlier version's, which had one alone


def _results(folder: Path) -> dict[str, Any]:
    """Raises UserError for a file that names what no evaluation has."""
    path = folder / "results.json"
    found = read_json(path, "an evaluation's results", ("settings", "benchmarks"))
    if not isinstance(found["settings"], dict) or not isinstance(found["benchmarks"], dict):
        raise UserError(f"{path}: expected an evaluation's settings and benchmarks, objects")
    for name, own in found["benchmarks"].items():
        if name not in BENCHMARKS:
            raise UserError(f"{folder}: unknown benchmark {name!r}, expected some of {', '.join(BENCHMARKS)}")
        told: Any = own.get("judges", {}) if isinstance(own, dict) else None
        order: Any = own.get("judge_order", []) if isinstance(own, dict) else None
        good = isinstance(told, dict) and isinstance(order, list) and all(isinstance(judge, str) for judge in order)
        good = good and {*order} <= told.keys() and not any("/" in judge for judge in told)
        if not good or any(not isinstance(j, dict) or str(j.get("rubric")) not in _RUBRICS for j in told.values()):
            raise UserError(f"{path}: benchmark {name!r}: expected judges as `tga evaluate` writes them")
    return found


def _read(folder: Path) -> tuple[dict[str, Any], dict[tuple[str, str], list[Outcome]]]:
    """(settings, outcomes by (benchmark, judge)). Raises UserError for a folder that is no finished evaluation."""
    results = _results(folder)
    found = {}
    for name in results["benchmarks"]:
        rows = store.read(folder / "answers" / f"{name}.jsonl", store.ANSWER)
        if BENCHMARKS[name].score is None and BENCHMARKS[name].export is not None:
            found[name, ""] = []  # its own scorer has them
        if BENCHMARKS[name].score is not None:
            found[name, ""] = outcomes.scored(BENCHMARKS[name], rows)
        for judge, own in summary.judges(results["benchmarks"][name]).items():
            verdicts = store.verdicts(folder, name, judge, len(rows))
            found[name, judge] = outcomes.judged(rows, verdicts, own.get("rubric", "refusal"))
    return results["settings"], found


def _pairs(name: str, a: Sequence[Outcome], b: Sequence[Outcome], same_attack: bool) -> list[tuple[Outcome, Outcome]]:
    """Joined by id and input. Raises UserError if they differ, but for what one of two attacks left out."""
    ours, theirs = ({(o.id, o.input): o for o in side} for side in (a, b))
    if same_attack and (alone := sorted(ours.keys() ^ theirs.keys())):
        raise UserError(f"{name}: {len(alone)} questions are in one evaluation only, such as {' as '.join(alone[0])}")
    return [(ours[key], theirs[key]) for key in ours if key in theirs]


def compare(first: Path, second: Path, seed: int = 0) -> dict[str, Any]:
    """Rows {"benchmark", "judge", "input", "measure", "a", "b", "difference", "low", "high", "n"}, the settings that
    differ, and (benchmark, judge) of what has no row. Raises UserError where nothing, or not the same, was asked."""
    (one, a), (two, b) = _read(first), _read(second)
    rows, same_attack = [], one.get("attack") == two.get("attack")
    for name, judge in [key for key in a if key in b]:
        pairs = _pairs(name, a[name, judge], b[name, judge], same_attack)
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
    rows.sort(key=lambda row: row["benchmark"])
    alone = sorted((a.keys() | b.keys()) - {(row["benchmark"], row["judge"]) for row in rows})
    return {
        "a": str(first),
        "b": str(second),
        "differs": differences(one, two, "settings", "{name} is {old} in A and {new} in B"),
        "not_compared": [list(pair) for pair in alone],
        "rows": rows,
    }


def report(
    first: Path,
    second: Path,
    console: rich.console.Console,
    path: Path | None = None,
    seed: int = 0,
    page: Path | None = None,
    command: str = "",
) -> None:
    """Prints the table. path: it goes there as JSON; page: and there as HTML, with answers, A beside B; command: what
    made it, told there."""
    found: dict[str, Any] = {**compare(first, second, seed), "command": command}
    for line in summary.not_alike(found):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"A: {first}\nB: {second}", markup=False, highlight=False, soft_wrap=True)
    console.print(summary.terminal_table(*summary.difference_table(found, rare=False)))
    if path is not None:
        write_json(path, found)
    if page is not None:
        judges = {}  # of each benchmark, the first that judged both
        for row in found["rows"]:
            judges.setdefault(row["benchmark"], row["judge"])
        sides = {
            name: {
                side: pages.answers(folder, name, judge, BENCHMARKS[name])
                for side, folder in (("A", first), ("B", second))
            }
            for name, judge in judges.items()
        }
        write_text(page, pages.comparison(found, sides, first / pages.THUMBNAILS))
        console.print(f"written: {page}", soft_wrap=True)
