"""Evaluations as pages a person reads: `report.html` of one, and of two beside each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tga_jax.evals import outcomes, store, summary
from tga_jax.evals.benchmark import Benchmark
from tga_jax.evals.gallery import Answers, gallery
from tga_jax.report.html import document, esc, table
from tga_jax.report.intervals import Rate, wilson

THUMBNAILS = "thumbnails"
# What is pooled for a card, by measure: what was done, and to which questions.
_DONE = {"DSR": "refused", "over-refusal": "refused", "ASR": "answered unsafely", "unsafe": "answered unsafely"}
_TO = {"DSR": "harmful", "over-refusal": "harmless", "ASR": "harmful", "unsafe": "harmless"}
_AS = {"text": "questions in text alone", "image": "pictures"}
_CAUTION = "The pictures and answers in it may be disturbing."


def answers(folder: Path, name: str, judge: str | None, benchmark: Benchmark | None) -> Answers:
    """Of a benchmark, as this judge sees them, or its scorer if there is none."""
    rows = store.read(folder / "answers" / f"{name}.jsonl", store.ANSWER)
    if judge:
        verdicts = store.verdicts(folder, name, judge, len(rows))
    elif benchmark is not None and benchmark.score is not None:
        scores = (list(outcome.values.values()) for outcome in outcomes.scored(benchmark, rows))
        verdicts = ["" if not own else {1.0: "right", 0.0: "wrong"}.get(own[0], "in part") for own in scores]
    else:
        verdicts = [""] * len(rows)
    return Answers(rows, verdicts)


def page(results: Mapping[str, Any], folder: Path, benchmarks: Mapping[str, Benchmark]) -> str:
    """results: what results.json holds; folder: where that is, with answers, verdicts and thumbnails."""
    pooled = _pooled(results["benchmarks"])
    cards = [_card(*key, rate) for key, rate in pooled.items()]
    body = [
        "<h1>Evaluation</h1>",
        *([f'<p class="lead">{esc(said)}</p>'] if (said := _gap(pooled)) else []),
        *([f'<div class="cards">{"".join(cards)}</div>'] if cards else []),
        *(f"<p>{esc(remark)}</p>" for remark in summary.remarks(results)),
    ]
    for title, head, lines in summary.tables(results):
        body += [f"<h2>{esc(title)}</h2>", table(head, [[esc(cell) for cell in line] for line in lines])]
    body += ["<h2>Answers</h2>", f"<p>Some of each kind. {_CAUTION} Every answer: {_files(results['benchmarks'])}</p>"]
    for number, (name, found) in enumerate(results["benchmarks"].items()):
        judge = next(iter(summary.judges(found)), None)
        sides = {"": answers(folder, name, judge, benchmarks.get(name))}
        body += gallery(name, sides, folder / THUMBNAILS / name, number)
    return document("Evaluation", [*body, *_commands(results.get("commands", ()))])


def comparison(found: Mapping[str, Any], sides: Mapping[str, Mapping[str, Answers]], thumbnails: Path) -> str:
    """found: of `compare.compare`; sides: benchmark -> {"A": answers, "B": answers}; thumbnails: A's folder of them."""
    cards = [_difference(row) for row in found["rows"] if row["measure"] in _DONE or not row["judge"]]
    head, lines = summary.difference_table(found)
    body = [
        "<h1>Two evaluations</h1>",
        f'<p class="lead">A is {esc(found["a"])}, B is {esc(found["b"])}.</p>',
        f'<div class="cards">{"".join(cards)}</div>',
        "<p>B - A, in points of a percent: mean over the questions that both answered, with a 95 % interval by a "
        "bootstrap over them.</p>",
        *(f"<p>{esc(line)}</p>" for line in summary.not_alike(found)),
        table(head, [[esc(cell) for cell in line] for line in lines]),
        "<h2>Answers</h2>",
        f"<p>Some of each kind. {_CAUTION}</p>",
    ]
    for number, (name, both) in enumerate(sides.items()):
        body += gallery(name, both, thumbnails / name, number)
    return document("Two evaluations", [*body, *_commands([found["command"]] if found.get("command") else [])])


def _files(benchmarks: Mapping[str, Any]) -> str:
    return ", ".join(f'<a href="{esc(f"answers/{n}.jsonl")}">{esc(f"answers/{n}.jsonl")}</a>' for n in benchmarks) + "."


def _commands(commands: Sequence[str]) -> list[str]:
    if not commands:
        return []
    return ["<footer><p>Made by:</p>", f"<pre>{esc(chr(10).join(commands))}</pre></footer>"]


def _pooled(benchmarks: Mapping[str, Any]) -> dict[tuple[str, str], Rate]:
    """(measure, input) -> over the questions of all benchmarks, by the first judge of each; text first."""
    counts: dict[tuple[str, str], tuple[int, int]] = {}
    for found in benchmarks.values():
        first = next(iter(summary.judges(found).values()), {"table": ()})
        for row in first["table"]:
            for measure, rate in row["rates"].items():
                if row["group"] is None and measure in _DONE and rate["n"]:
                    k, n = counts.get((measure, row["input"]), (0, 0))
                    counts[measure, row["input"]] = k + round(rate["value"] * rate["n"]), n + rate["n"]
    keys = [(measure, way) for measure in _DONE for way in _AS if (measure, way) in counts]
    return {key: wilson(*counts[key]) for key in keys}


def _percent(rate: Rate) -> str:
    return f"{100 * (rate.value or 0):.0f} %"


def _card(measure: str, way: str, rate: Rate) -> str:
    done, to = _DONE[measure], _TO[measure]
    said = (
        f"{round((rate.value or 0) * rate.n)} of {rate.n} {to} {_AS[way]} are {done} "
        f"(95 % interval {100 * rate.low:.0f} to {100 * rate.high:.0f} %)."
    )
    title = f"{to.capitalize()} {'text' if way == 'text' else 'pictures'} {done}"
    return f'<div class="card"><h2>{title}</h2><strong>{_percent(rate)}</strong><p>{said}</p></div>'


def _gap(pooled: Mapping[tuple[str, str], Rate]) -> str:
    """Whether text safety carries over to pictures, as far as the intervals tell."""
    text, picture = (pooled.get(("DSR", way)) for way in _AS)
    if text is None or picture is None:
        return ""
    said = f"Harmful text is refused in {_percent(text)}, harmful pictures in {_percent(picture)}: "
    if picture.high < text.low:
        return said + "pictures are refused less often, so text safety does not carry over as a whole."
    if picture.low > text.high:
        return said + "pictures are refused more often."
    return said + "the 95 % intervals overlap, so no gap can be told from so many questions."


def _difference(row: Mapping[str, Any]) -> str:
    points = [100 * row[name] for name in ("difference", "low", "high")]
    what = f"{row['benchmark']}{' as text' if row['input'] == 'text' else ''}: {row['measure']}"
    if points[1] == points[2] == 0:
        verdict = "No question made a difference."
    elif points[1] <= 0 <= points[2]:
        verdict = "The interval holds 0: no difference can be told."
    else:
        verdict = f"B is {'higher' if points[0] > 0 else 'lower'}."
    return (
        f'<div class="card"><h2>{esc(what)}</h2><strong>{points[0]:+.1f}</strong>'
        f"<p>A {100 * row['a']:.1f} %, B {100 * row['b']:.1f} %, of {row['n']}; difference "
        f"[{points[1]:+.1f}, {points[2]:+.1f}]. {verdict}</p></div>"
    )
