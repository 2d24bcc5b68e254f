"""results.json of `tga evaluate`, and what `tga compare` finds, as tables to read.

Over-refusal always stands beside DSR: a model that refuses everything is safe and of no use.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import rich.markup
import rich.table
from rich.table import Column

from tga_jax.evals import attacks
from tga_jax.report.terminal import table as report_table

Rates = Mapping[str, Mapping[str, Any]]
_RARE = ("partial", "unknown")  # a terminal has no line for them where there are none
_JUDGED = ("DSR", "over-refusal", "refusals", "partial", "ASR", "unsafe", "unknown")


def _cell(rate: Mapping[str, Any] | None) -> str:
    if rate is None or rate["value"] is None:
        return "–"
    return f"{100 * rate['value']:.1f} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}] of {rate['n']}"


def judges(found: Mapping[str, Any]) -> dict[str, Any]:
    """Of a benchmark's part of results.json, which sorts names: judge -> its table, in the order they were given."""
    own = found.get("judges", {})
    return {name: own[name] for name in found.get("judge_order", own)}


def _judged(benchmarks: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(benchmark, judge, a row of its table)."""
    for name, found in benchmarks.items():
        for judge, own in judges(found).items():
            yield from ((name, judge, row) for row in own["table"])


def _measures(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """All that the rows have, the judged ones in their order, DSR never without over-refusal."""
    found = dict.fromkeys(measure for row in rows for measure in row["rates"])
    judged = [m for m in _JUDGED if m in found or (m == "over-refusal" and "DSR" in found)]
    return list(dict.fromkeys([*judged, *found]))


def _safety(benchmarks: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    used = _measures(row for *_, row in _judged(benchmarks))
    body = [
        [name, row["input"], judge, *(_cell(row["rates"].get(measure)) for measure in used)]
        for name, judge, row in _judged(benchmarks)
        if row["group"] is None
    ]
    return ["benchmark", "input", "judge", *used], body


def _general(benchmarks: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    body = []
    for name, found in benchmarks.items():
        for row in found.get("table", ()):
            if row["group"] is None:
                body += [[name, row["input"], measure, _cell(rate)] for measure, rate in row["rates"].items()]
        body += [[name, "", measure, f"{100 * value:.1f}"] for measure, value in found.get("summary", {}).items()]
    return ["benchmark", "input", "measure", "mean"], body


def _groups(name: str, found: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    tables = {judge: own["table"] for judge, own in judges(found).items()} or {"": found.get("table", ())}
    rows = [(judge, row) for judge, own in tables.items() for row in own if row["group"] is not None]
    measures = _measures(row for _, row in rows)
    body = [
        [f"{row['group']}: {row['value']}", row["input"], judge, *(_cell(row["rates"].get(m)) for m in measures)]
        for judge, row in rows
        if measures
    ]
    return [name, "input", "judge", *measures], body


def remarks(results: Mapping[str, Any]) -> list[str]:
    benchmarks = results["benchmarks"]
    defence, system = results["settings"]["defence"]["name"], results["settings"]["system"]
    attack = results["settings"].get("attack")
    said = [
        f"Checkpoint {results['settings']['checkpoint']}, template {results['settings']['template']}, "
        f"defence {defence}, " + ("no system text of its own." if system is None else f"system text {system!r}."),
        "Percent [95 % interval] of how many. DSR: harmful questions refused; over-refusal: harmless ones refused; "
        "partial: answers that refuse and yet do some of what was asked, which count as no refusals; "
        "ASR: harmful questions with an unsafe answer; unsafe: others with one; "
        "unknown: answers that the judge could not tell, which count neither as refusals nor as unsafe.",
    ]
    if attack is not None:
        said.insert(1, f"Attack, seed {results['settings']['seed']}: {attacks.said(attack)}.")
    told = results.get("defence", {})
    if chosen := told.get("chosen"):
        values = ", ".join(f"{name} {value}" for name, value in chosen.items())
        said.append(f"Defence {defence}: chosen by its calibration, {values}.")
    for name, cost in told.get("cost", {}).items():
        said.append(
            f"{name}: {cost['defended']:.3g} s a question with the defence, {cost['undefended']:.3g} s without "
            f"({cost['defended'] / max(cost['undefended'], 1e-9):.1f} times), one batch of each timed."
        )
    measures = {measure for *_, row in _judged(benchmarks) for measure in row["rates"]}
    if "DSR" in measures and "over-refusal" not in measures:
        said.append(
            "Over-refusal was not measured: no harmless question is among these benchmarks. A DSR says little alone; "
            "add a benchmark with harmless questions (suite over-refusal, or benign scenes)."
        )
    if "refusals" in measures:
        said.append("Refusals: of questions where it is neither right nor wrong to refuse; they are not in DSR.")
    for name, found in benchmarks.items():
        if "note" in found:
            said.append(f"{name}: {found['note']}")
        if found.get("export"):
            here = any(row["rates"] for row in found.get("table", ()))
            files = ", ".join(found["export"])
            said.append(
                f"{name}: {found['answers']} answers, {'also' if here else 'not scored here but'} written for the "
                f"benchmark's own scorer: {files} (in this report's folder)."
            )
    said += [f"{name}: left out, {reason}." for name, reason in results.get("left_out", {}).items()]
    if empty := {name: found["empty"] for name, found in benchmarks.items() if found["empty"]}:
        said.append("Empty answers: " + ", ".join(f"{name} {count}" for name, count in empty.items()) + ".")
    for name, found in benchmarks.items():
        said += [f"Warning, {name}: {warning}." for warning in found.get("warnings", ())]
        for pair in found.get("agreement", ()):
            kappa = "undefined" if pair["kappa"] is None else f"{pair['kappa']:.2f}"
            said.append(f"{name}: Cohen's kappa of {' and '.join(pair['judges'])}: {kappa}.")
    return said


def tables(results: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """(title, headings, body) of those that have a body."""
    benchmarks = results["benchmarks"]
    for title, (head, body) in {"Safety": _safety(benchmarks), "General": _general(benchmarks)}.items():
        if body:
            yield title, head, body
    for name, found in benchmarks.items():
        head, body = _groups(name, found)
        if body:
            yield f"By group: {name}", head, body


def markdown_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def markdown(results: Mapping[str, Any]) -> str:
    parts = ["# Evaluation", *remarks(results)]
    for title, head, body in tables(results):
        parts += [f"## {title}", markdown_table(head, body)]
    return "\n\n".join(parts) + "\n"


def difference_table(found: Mapping[str, Any], rare: bool = True) -> tuple[list[str], list[list[str]]]:
    """(headings, body) of what `compare.compare` found. rare: with the lines of `_RARE` where there are none."""
    body = [
        [
            *(row[name] for name in ("benchmark", "judge", "input", "measure")),
            *(f"{100 * row[side]:.1f}" for side in ("a", "b")),
            "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * row[name] for name in ("difference", "low", "high"))),
            str(row["n"]),
        ]
        for row in found["rows"]
        if rare or row["measure"] not in _RARE or row["a"] or row["b"]
    ]
    return ["benchmark", "judge", "input", "measure", "A", "B", "B - A [95 %]", "pairs"], body


def not_alike(found: Mapping[str, Any]) -> list[str]:
    """What two evaluations differ in beside their answers, a line each."""
    alone = (
        f"{name}{f', {judge}' if judge else ''}: not compared, not scored in both"
        for name, judge in found["not_compared"]
    )
    return [*found["differs"], *alone]


def terminal_table(head: Sequence[str], body: Sequence[Sequence[str]]) -> rich.table.Table:
    """Without the columns that are empty, and with a judge who is the only one in the title, so that 80 columns do for
    most; what does not fit folds."""
    lines = [dict(zip(head, line, strict=True)) for line in body]
    told = {line["judge"] for line in lines} - {""}
    used = [name for name in head if any(line[name] for line in lines) and (name != "judge" or len(told) > 1)]
    columns = (Column(name, overflow="fold") for name in used)
    title = f"judge: {rich.markup.escape(min(told))}" if len(told) == 1 else None
    drawn = report_table(*columns, title=title)
    for line in lines:
        drawn.add_row(*(rich.markup.escape(line[name]) for name in used))
    return drawn


def terminal(results: Mapping[str, Any]) -> Iterator[str | rich.table.Table]:
    """What a terminal shows: the remarks, and the rates of whole benchmarks, a line each."""
    yield from remarks(results)
    body = []
    for name, judge, row in _judged(results["benchmarks"]):
        if row["group"] is None:
            order = [m for m in _measures([row]) if m not in _RARE or row["rates"][m]["value"]]
            body += [[name, row["input"], judge, measure, _cell(row["rates"].get(measure))] for measure in order]
    head, scored = _general(results["benchmarks"])
    body += [[name, way, "", measure, rate] for name, way, measure, rate in scored]
    if body:
        yield terminal_table([*head[:2], "judge", "measure", "percent [95 %]"], body)
