"""The grid as pages to read: `report.html`, and for every cell a page with its raw answers, where numbers lead to."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from tga_jax.analysis import plots as layer_plots
from tga_jax.demo import claims, mechanism
from tga_jax.demo.cells import TEXT, Cell
from tga_jax.demo.grid import Grid, Number, Table, named
from tga_jax.demo.report import LICENSES
from tga_jax.demo.world import drawing
from tga_jax.demo.world.language import LANGUAGES
from tga_jax.demo.world.plan import EmojiScenesConfig, plan
from tga_jax.report import figures, html
from tga_jax.report.html import esc
from tga_jax.workdir import write_text

_EXAMPLES = 6  # harmful pictures, and half as many others
_BARS = 12  # rows in the first figure; the tables hold all
_ASIDE = "figures"  # the folder of the PNG files, which the page holds too


def write(grid: Grid, workdir: Path) -> None:
    """Writes `report.html`, `answers/<cell>.html` of every cell that is there, and the figures' files."""
    for cell, found in grid.found.items():
        write_text(workdir / _answers_page(cell), _answers(cell, found))
    tables = claims.tables(grid)
    drawn = _draw(grid, workdir / _ASIDE)
    body = [
        f"<h1>{esc(_TITLE[grid.config.llm])}</h1>",
        f'<p class="lead">{_text(claims.headline(grid))}</p>',
        f"<p>{_MODELS[grid.config.llm]} {esc(_pictures(grid))} {_RATES} {_seeds(grid)}</p>",
        *([f'<p class="note">{_text(grid.config.note)}</p>'] if grid.config.note else []),
        _missing(grid),
        _contents({table.name: table.title for table in tables}),
        *drawn.get("rates", []),
    ]
    for table in tables:
        body += _section(table, drawn.get(table.name, []))
    body += [*drawn.get("examples", []), "<h2>Rows</h2>", _rows(grid), f"<footer><p>{esc(LICENSES)}</p></footer>"]
    write_text(workdir / "report.html", html.document(f"Text-Guided Alignment: {grid.config.name}", body))


# By the config's llm.
_TITLE = {
    "": "Text safety and pictures in the demo's own language model",
    "smollm2": "Text safety and pictures in a real language model",
}
_MODELS = {
    "": "The decoder is the demo's own, trained from scratch.",
    "smollm2": "The decoder is SmolLM2-135M-Instruct, taught in text only to refuse harmful things.",
}
_RATES = (
    "DSR (defence success rate) is the share of harmful inputs that are refused. Every rate leads to the answers that "
    "it was counted from: a mean by the small numbers of its seeds."
)


def _scenes(grid: Grid, seed: int) -> EmojiScenesConfig:
    fields: dict[str, Any] = {**grid.config.scenes, "seed": seed}
    return EmojiScenesConfig(**fields)


def _pictures(grid: Grid) -> str:
    scenes = _scenes(grid, 0)
    hands = ", ".join(scenes.hands)
    tested = f"those of {scenes.held_out_hand} are only tested on."
    return f"Pictures are emoji as drawn by {hands}, read by a small CLIP; {tested}"


def _contents(sections: Mapping[str, str]) -> str:
    """anchor -> title"""
    links = (f'<li><a href="#{esc(anchor)}">{esc(title)}</a></li>' for anchor, title in sections.items())
    return f"<nav><ul>{''.join(links)}</ul></nav>"


def _seeds(grid: Grid) -> str:
    seeds = ", ".join(map(str, sorted({cell.seed for cell in grid.cells})))
    return f"Seeds: {seeds}. Of one seed: rate [95 % Wilson interval]; of several: mean (lowest to highest)."


def _missing(grid: Grid) -> str:
    names = [cell.name for cell in grid.cells if cell not in grid.found]
    if not names:
        return ""
    count = f"{len(names)} of {len(grid.cells)} cells are not made yet"
    return f"<details><summary><strong>{count}</strong></summary><p>{esc(', '.join(names))}</p></details>"


def _text(text: str) -> str:
    """Escaped, with `names` as code."""
    parts = esc(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


def _section(table: Table, drawn: Sequence[str]) -> list[str]:
    body = [[_number(number) for number in line] for line in table.lines]
    return [
        f'<h2 id="{table.name}">{esc(table.title)}</h2>',
        f"<p>{_text(table.says)}</p>",
        html.table(table.head, body),
        *drawn,
        f'<p class="note">{_text(table.caveat)}</p>',
    ]


def _number(number: Number) -> str:
    """A link to the answers of its one seed; of several a link for each behind it."""
    shown, spread = _text(number.value), f' <span class="interval">{esc(number.spread)}</span>' if number.spread else ""
    if len(number.sources) == 1:
        return f'<a href="{_link(*number.sources[0])}">{shown}</a>{spread}'
    seeds = " ".join(f'<a href="{_link(cell, key)}">{cell.seed}</a>' for cell, key in number.sources)
    return shown + (f"<sup>{seeds}</sup>" if seeds else "") + spread


def _answers_page(cell: Cell) -> str:
    return f"answers/{cell.name}.html"


def _link(cell: Cell, key: str) -> str:
    return esc(f"{_answers_page(cell)}#{_anchor(key)}")


def _anchor(key: str) -> str:
    return key.replace("+", "-").replace(" ", "-")


def _answers(cell: Cell, found: Mapping[str, Any]) -> str:
    keys = list(found["answers"])
    body = [
        f"<h1>{_text(named((cell.row, cell.stage)))}, seed {cell.seed}: raw answers</h1>",
        '<p><a href="../report.html">The report</a></p>',
        _contents({_anchor(key): key for key in keys}),
    ]
    for key in keys:
        lines = [
            [
                esc(a["id"]),
                esc(a["question"]),
                esc(a["answer"]),
                esc(a["verdict"]),
                esc(a["kind"] or ("look-alike" if a["look_alike"] else "")),
                "yes" if a["correct"] else "no",
            ]
            for a in found["answers"][key]
        ]
        chosen = found.get("settings", {}).get(key.removeprefix("baseline+"))
        body += [f'<h2 id="{esc(_anchor(key))}">{esc(key)}</h2>']
        body += [f"<p>Chosen: {esc(chosen)}</p>"] if chosen else []
        body += [html.table(["input", "question", "answer", "verdict", "harm", "named"], lines)]
    return html.document(f"{cell.name}: answers", body)


def _rows(grid: Grid) -> str:
    rows = dict.fromkeys(cell.row for cell in grid.cells if cell.row != TEXT)
    return f"<ul>{''.join(f'<li><code>{esc(row)}</code>: {esc(grid.config.rows[row].note)}</li>' for row in rows)}</ul>"


# Figures: of the first seed that has the cell, since curves of several seeds over each other cannot be read.


def _first(grid: Grid, row: str, stage: str) -> Mapping[str, Any] | None:
    return next((grid.found[cell] for cell in grid.cells_of(row, stage) if cell in grid.found), None)


def _draw(grid: Grid, folder: Path) -> dict[str, list[str]]:
    """Section -> its figures as HTML."""
    last = grid.last()
    core = {row: found for row, stage in last if row in grid.config.core_rows and (found := _first(grid, row, stage))}
    text = next((_first(grid, row, stage) for row, stage in grid.places() if row == TEXT), None)
    shown: dict[str, list[tuple[str, Path]]] = {}
    if known := _bars(grid, folder / "rates.png"):
        rows = f"each of the first {_BARS} rows" if len(last) > _BARS else "each row"
        says = f"Refused of harmful pictures, and harmless pictures named, of {rows} after its last stage"
        shown["rates"] = [(says, known)]
    if core:
        cosines = {
            title: {row: found["inside"]["cosine"][kind] for row, found in core.items()}
            for kind, title in (("raw", "as it is"), ("centred", "centred"))
        }
        layer_plots.plot_layer_cosine(cosines, {}, folder / "cosine.png")
        lens = {**({figures.TEXT_LABEL: text} if text else {}), **core}
        layer_plots.plot_refusal_by_layer(
            {row: found["inside"]["refusal"]["probability"] for row, found in lens.items()},
            {row: found["inside"]["refusal"]["start"] for row, found in lens.items()},
            folder / "refusal.png",
        )
        at = next(iter(core.values()))["inside"]["patched_at"]
        layer_plots.plot_panels(
            {row: {k: curve[:-1] for k, curve in found["inside"]["patching"].items()} for row, found in core.items()},
            folder / "patching.png",
            at=at,
        )
        shown["alignment"] = [
            ("Cosine of picture and caption states by layer (one seed)", folder / "cosine.png"),
            ("Probability of a refusal by layer, read through the head (one seed)", folder / "refusal.png"),
        ]
        shown["patching"] = [
            (
                "Share refused when states of the same prompt in words are taken over, at a block (residual, "
                "instruction) or from it on (key, value) (one seed)",
                folder / "patching.png",
            )
        ]
    if _scatter(grid, folder / "correlation.png"):
        shown.setdefault("alignment", []).append(
            ("Alignment at the layers of refusal against image DSR, a dot a cell", folder / "correlation.png")
        )
    pages = {name: [html.figure(*one) for one in found] for name, found in shown.items()}
    if examples := _examples(grid):
        pages["examples"] = ["<h2>Examples</h2>", f'<div class="examples">{"".join(examples)}</div>']
    return pages


def _bars(grid: Grid, path: Path) -> Path | None:
    """The mean over seeds of the first rows' rates, with the lowest and highest."""
    rates = {"image_dsr": "harmful pictures refused", "benign_naming": "harmless pictures named"}
    rows = {
        row: {
            rate: [
                found["rates"]["test"][rate]["value"]
                for cell in grid.cells_of(row, stage)
                if (found := grid.found.get(cell))
            ]
            for rate in rates
        }
        for row, stage in grid.last()[:_BARS]
    }
    rows = {row: values for row, values in rows.items() if all(values.values())}
    if not rows:
        return None
    figure = Figure(figsize=(7.2, 0.55 * len(rows) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    y = np.arange(len(rows))
    for i, (rate, label) in enumerate(rates.items()):
        values = [found[rate] for found in rows.values()]
        mean = np.array([np.mean(v) for v in values])
        spread = [mean - [min(v) for v in values], [max(v) for v in values] - mean]
        axes.barh(y + (i - 0.5) * 0.38, mean, 0.36, xerr=np.abs(spread), color=figures.PALETTE[2 - i], label=label)
    axes.set_yticks(y, [figures.plain(row) for row in rows])
    axes.invert_yaxis()
    figures.apply(axes, "", "", grid="x")
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    text = [v for row, stage in grid.places() if row == TEXT for _, v in grid.values((row, stage), _text_dsr)]
    if text:
        axes.axvline(float(np.mean(text)), color=figures.TEXT_COLOR, linestyle="--", label="harmful captions refused")
    figures.legend(figure, axes)
    figures.save(figure, path)
    return path


def _text_dsr(found: Mapping[str, Any]) -> float:
    return found["rates"][TEXT]["text_dsr"]["value"]


def _scatter(grid: Grid, path: Path) -> bool:
    correlations = mechanism.correlations(grid)
    if not correlations:
        return False
    points = mechanism.alignments(grid)
    rows = list(dict.fromkeys(cell.row for cell, *_ in next(iter(points.values()))))
    lines = -(-len(correlations) // 2)
    figure = Figure(figsize=(7.2, 3.0 * lines + 0.8), layout="constrained")
    grid_axes = figure.subplots(lines, 2, sharey=True, squeeze=False).ravel()
    markers = "osD^vP*X<>"
    for axes, (name, (rho, _, _)) in zip(grid_axes, correlations.items(), strict=False):
        for i, row in enumerate(rows):
            of_row = [(x, y) for cell, x, y in points[name] if cell.row == row]
            color = figures.PALETTE[i % len(figures.PALETTE)]
            axes.scatter(*zip(*of_row, strict=True), color=color, marker=markers[i % len(markers)], s=28, label=row)
        figures.apply(axes, f"rank correlation {rho:+.2f}", "image DSR")
        axes.set_xlabel("\n".join(figures.wrap(name, 30, 2)), color=figures.INK)
        axes.set_ylim(-0.03, 1.03)
    figures.legend(figure, grid_axes[0])
    figures.save(figure, path)
    return True


def _examples(grid: Grid) -> list[str]:
    """The same held-out pictures of the first seed with each core row's answer, drawn again from their names."""
    rows = grid.last(lambda row: row in grid.config.core_rows)
    seed = next((c.seed for c in grid.cells if all(Cell(c.seed, *row) in grid.found for row in rows)), None)
    if seed is None or not rows:
        return []
    said = {row: grid.found[Cell(seed, row, stage)]["answers"] for row, stage in rows}
    describe = LANGUAGES[grid.config.language].describe[0]
    by_row = {row: {a["id"]: a for a in found["test"] if a["question"] == describe} for row, found in said.items()}
    asked = list(next(iter(by_row.values())).values())
    chosen = []
    for kind, count in ((True, _EXAMPLES), (False, _EXAMPLES // 2)):
        of_kind = [a for a in asked if bool(a["kind"]) is kind]
        chosen += [of_kind[i * len(of_kind) // count] for i in range(min(count, len(of_kind)))]
    scenes = _scenes(grid, seed)
    shown = {drawing.example_id("test", one): one for one in plan(scenes, "test")}
    blocks = []
    for answer in chosen:
        picture = drawing.render(scenes, "test", answer["id"], shown[answer["id"]])
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "png")
        answers = {row: found[answer["id"]] for row, found in by_row.items()}
        lines = "".join(
            f'<dt>{esc(row)}</dt><dd class="{esc(said["verdict"])}">{esc(said["answer"] or "(empty)")}</dd>'
            for row, said in answers.items()
        )
        caption = ", ".join(thing.name for thing in shown[answer["id"]].things)
        blocks.append(
            f'<figure class="example"><img class="pixels" src="{html.data_url(buffer.getvalue())}" alt="">'
            f"<figcaption>{esc(caption)}</figcaption><dl>{lines}</dl></figure>"
        )
    return blocks
