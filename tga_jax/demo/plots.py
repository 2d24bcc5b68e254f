"""The demo's figures: refusal rates, examples, the overview. NumPy and dicts in, one PNG out.

A rate is a dict {"value", "low", "high", "n"} as in results.json; a null value is drawn as "n/a". The order of every
dict is the order of drawing. Letters: N pictures, H height, W width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import PercentFormatter

from tga_jax.report import figures

RateJson = Mapping[str, Any]

# Refusals are told by weight as well as by colour.
_VERDICT_STYLE: dict[str, dict[str, Any]] = {
    "refusal": {"color": "#005A9C", "fontweight": "bold"},
    "answer": {"color": "#3A3A3A"},
    "unknown": {"color": "#A34700", "fontstyle": "italic"},
}


def plot_dsr_by_scene(rows: Mapping[str, Mapping[str, RateJson]], path: Path) -> None:
    """Grouped bars: share refused for each scene (x) and series, with the ends of the intervals as whiskers.

    Args:
      rows: series label -> scene -> rate. A scene missing from a series is drawn as "n/a".
      path: PNG to write.
    """
    scenes = list(dict.fromkeys(scene for by_scene in rows.values() for scene in by_scene))
    figure = Figure(figsize=(max(6.0, 1.3 * len(scenes) + 1.5), 4.2), layout="constrained")
    axes = figure.add_subplot()
    width = 0.82 / max(1, len(rows))
    for i, ((label, by_scene), color) in enumerate(zip(rows.items(), figures.colors(rows), strict=True)):
        x = np.arange(len(scenes)) + (i - (len(rows) - 1) / 2) * width
        _bars(axes, x, [by_scene.get(scene) for scene in scenes], width, color, label)
    ticks = []
    for scene in scenes:
        counts = {int(by_scene[scene]["n"]) for by_scene in rows.values() if scene in by_scene} - {0} or {0}
        ticks.append(f"{figures.plain(scene)}\nn = " + "–".join(map(str, sorted({min(counts), max(counts)}))))
    axes.set_xticks(np.arange(len(scenes)), ticks)
    axes.set_xlim(-0.55, len(scenes) - 0.45)
    figures.apply(axes, "Share of harmful inputs refused, by scene", "share refused (95 % interval)")
    axes.set_ylim(0, 1.02)
    figures.legend(figure, axes)
    figures.save(figure, path)


def plot_examples(
    images: np.ndarray,
    captions: Sequence[str],
    answers: Mapping[str, Sequence[str]],
    verdicts: Mapping[str, Sequence[str]],
    path: Path,
) -> None:
    """A grid of pictures with each model's answer beneath: refusals bold and blue, no answer in italics.

    Args:
      images: uint8 [N, H, W, 3].
      captions: N captions, set above the pictures.
      answers, verdicts: label -> N answers, and N of "refusal", "answer", "unknown".
      path: PNG to write.
    """
    cell, picture, line, gap, pad, per_line = 2.5, 1.3, 0.16, 0.06, 0.16, 34  # inches; characters of 8.5 pt
    columns = min(4, max(1, len(images)))
    blocks = []  # for each picture, runs of (inches beneath the picture, text, style), one a line
    depths = []  # for each picture, inches its runs take
    for i in range(len(images)):
        runs: list[tuple[float, str, dict[str, Any]]] = []
        depth = 0.0
        for label in answers:
            depth += gap
            style = _VERDICT_STYLE[verdicts[label][i]]
            texts = figures.wrap(answers[label][i].strip() or "(empty)", per_line, 3)
            for text, how in [(label, {"color": figures.MUTED, "fontsize": 7.5}), *((text, style) for text in texts)]:
                runs.append((depth, text, how))
                depth += line
        blocks.append(runs)
        depths.append(depth)
    titles = [figures.wrap(caption, per_line, 2) for caption in captions]
    rows = [range(k, min(k + columns, len(images))) for k in range(0, len(images), columns)]
    heights = [
        max(len(titles[i]) for i in row) * line + picture + max(depths[i] for i in row) + 2 * pad for row in rows
    ]
    width, height = columns * cell + pad, sum(heights) + pad
    figure = Figure(figsize=(width, height))
    top = height - pad
    for row, row_height in zip(rows, heights, strict=True):
        head = max(len(titles[i]) for i in row) * line
        for column, i in enumerate(row):
            x = pad + column * cell
            for k, text in enumerate(reversed(titles[i])):  # the last line rests on the picture
                _at(
                    figure,
                    x / width,
                    (top - head + k * line) / height,
                    text,
                    va="bottom",
                    fontsize=8.5,
                    color=figures.INK,
                )
            bottom = top - head - 0.05 - picture
            _picture(figure, images[i], (x / width, bottom / height, picture / width, picture / height))
            for depth, text, style in blocks[i]:
                _at(figure, x / width, (bottom - depth) / height, text, va="top", **{"fontsize": 8.5, **style})
        top -= row_height
    figures.save(figure, path)


def plot_overview(
    image: np.ndarray,
    caption: str,
    text_answer: tuple[str, str],
    image_answers: Mapping[str, tuple[str, str]],
    text_dsr: RateJson,
    image_dsr: Mapping[str, RateJson],
    naming: Mapping[str, RateJson],
    path: Path,
) -> None:
    """The whole story in one picture: one harmful example at the left, the rates at the right.

    The title is put together from the rates given, whatever they say.

    Args:
      image: uint8 [H, W, 3], one harmful picture.
      caption: what it shows, as it was given to the model as text.
      text_answer: (answer, verdict) to the caption.
      image_answers: row label -> (answer, verdict) to the picture.
      text_dsr: share of harmful captions refused.
      image_dsr: row label -> share of harmful pictures refused.
      naming: row label -> share of benign pictures named, for the same rows.
      path: PNG to write, 2,000 pixels wide, made to be shown at 1,000.
    """
    width = 10.0
    left, panel, picture = 0.025, 0.43, 1.55  # fractions of the width; inches
    beside = left + picture / width + 0.02
    beside_width = left + panel - beside
    as_text = _quote_runs(beside_width * width, "the caption as text", f"“{caption}”", text_answer)
    as_picture = [
        _quote_runs(panel * width, f"the picture, {label}", None, answer) for label, answer in image_answers.items()
    ]
    top = 0.73  # fraction of the height; beneath it the picture and the boxes, in inches
    boxes = sum(len(runs) * _LINE + 1.3 * _PAD + 0.12 for runs in as_picture)
    height = max(5.0, (picture + 0.15 + boxes) / top)
    figure = Figure(figsize=(width, height))
    shares = ", ".join(f"{label} {_percent(rate)}" for label, rate in image_dsr.items())
    _at(figure, left, 0.965, "Harmful content refused", va="top", fontsize=14, fontweight="bold", color=figures.INK)
    subtitle = f"as text {_percent(text_dsr)}   ·   as a picture: {shares}"
    _at(figure, left, 0.9, subtitle, va="top", fontsize=11.5, color=figures.INK)

    _at(figure, left, top + 0.022, "One example", va="bottom", fontsize=11, fontweight="bold", color=figures.INK)
    _picture(figure, image, (left, top - picture / height, picture / width, picture / height))
    y = _quote(figure, beside, top, beside_width, as_text)
    y = min(y, top - picture / height) - 0.15 / height
    for runs in as_picture:
        y = _quote(figure, left, y, panel, runs) - 0.12 / height

    colors = dict(zip(image_dsr, figures.colors(image_dsr), strict=True))
    bars = {figures.TEXT_LABEL: text_dsr, **{f"picture, {label}": rate for label, rate in image_dsr.items()}}
    x, right, bottom, gap = 0.69, 0.935, 0.105, 0.16
    unit = (top - bottom - gap) / max(1, len(bars) + len(naming))
    upper = figure.add_axes((x, top - unit * len(bars), right - x, unit * len(bars)))
    lower = figure.add_axes((x, bottom, right - x, unit * len(naming)))
    _horizontal_bars(upper, bars, [figures.TEXT_COLOR, *colors.values()], "Harmful inputs refused")
    _horizontal_bars(lower, naming, [colors[label] for label in naming], "Benign pictures named correctly")
    lower.set_xlabel("share of inputs, 95 % interval", color=figures.MUTED, fontsize=9)
    figures.save(figure, path)


_LINE, _PAD = 0.2, 0.1


def _quote_runs(
    width: float, head: str, given: str | None, answer: tuple[str, str]
) -> list[tuple[str, dict[str, Any]]]:
    """The lines (text, style) of a box of so many inches: head, what was given, -> answer."""
    per_line = int((width - 2 * _PAD) * 12.2)  # characters of 10 pt, bold, an inch
    text, verdict = answer
    runs: list[tuple[str, dict[str, Any]]] = [(head, {"color": figures.MUTED, "fontsize": 9})]
    if given is not None:
        runs += [(part, {"color": figures.INK}) for part in figures.wrap(given, per_line, 3)]
    reply = "→ " + (" ".join(text.split()) or "(empty)")
    return runs + [(part, _VERDICT_STYLE[verdict]) for part in figures.wrap(reply, per_line, 3)]


def _quote(figure: Figure, x: float, y: float, width: float, runs: Sequence[tuple[str, dict[str, Any]]]) -> float:
    """A rounded box around the lines, its upper left corner at (x, y). Returns the y beneath it. Figure fractions."""
    inch_w, inch_h = figure.get_size_inches()
    bottom = y - (len(runs) * _LINE + 1.3 * _PAD) / inch_h
    # Drawn in inches, so that the corners are round whatever the figure's shape.
    box = FancyBboxPatch(
        (x * inch_w, bottom * inch_h),
        width * inch_w,
        (y - bottom) * inch_h,
        boxstyle="round,pad=0,rounding_size=0.08",
        transform=figure.dpi_scale_trans,
        facecolor="#F4F5F7",
        edgecolor="#D5D8DD",
        linewidth=0.8,
    )
    figure.add_artist(box)
    for k, (part, style) in enumerate(runs):
        line_y = y - (0.85 * _PAD + k * _LINE) / inch_h
        _at(figure, x + _PAD / inch_w, line_y, part, va="top", **{"fontsize": 10, **style})
    return bottom


def _horizontal_bars(axes: Axes, rates: Mapping[str, RateJson], colors: Sequence[str], title: str) -> None:
    y = np.arange(len(rates))[::-1]
    for position, rate, color in zip(y, rates.values(), colors, strict=True):
        value = rate["value"]
        if value is None:
            axes.text(0.01, position, "n/a", va="center", fontsize=9.5, color=figures.MUTED)
            continue
        axes.barh(position, value, height=0.66, color=color)
        whisker = np.clip([[value - rate["low"]], [rate["high"] - value]], 0, None)
        axes.errorbar(value, position, xerr=whisker, color=figures.INK, linewidth=1.2, capsize=2.5)
        axes.text(
            max(value, rate["high"]) + 0.025, position, _percent(rate), va="center", fontsize=10, color=figures.INK
        )
    axes.set_yticks(y, [figures.plain(label) for label in rates])
    figures.apply(axes, title, "", grid="x")
    axes.tick_params(axis="y", labelsize=10, length=0)
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
    axes.set_ylim(-0.6, len(rates) - 0.4)


def _bars(axes: Axes, x: np.ndarray, rates: Sequence[RateJson | None], width: float, color: str, label: str) -> None:
    known = [(at, rate) for at, rate in zip(x, rates, strict=True) if rate is not None and rate["value"] is not None]
    for at in set(x) - {at for at, _ in known}:
        axes.text(at, 0.012, "n/a", ha="center", va="bottom", rotation=90, fontsize=7.5, color=figures.MUTED)
    values = np.array([rate["value"] for _, rate in known])
    ends = np.array([(rate["low"], rate["high"]) for _, rate in known]).reshape(-1, 2)
    whiskers = np.clip([values - ends[:, 0], ends[:, 1] - values], 0, None)
    at = [at for at, _ in known]
    axes.bar(at, values, width * 0.92, color=color, label=figures.plain(label))
    # The dot shows a rate of 0, whose bar has no height.
    axes.errorbar(
        at, values, whiskers, fmt="o", markersize=2.6, color=figures.INK, elinewidth=0.9, capsize=1.8, clip_on=False
    )


def _picture(figure: Figure, image: np.ndarray, box: tuple[float, float, float, float]) -> None:
    axes = figure.add_axes(box)
    axes.imshow(image, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#C8C8C8")


def _at(figure: Figure, x: float, y: float, text: str, **style: Any) -> None:
    # What a model writes is text, never mathtext.
    figure.text(x, y, text, parse_math=False, **style)


def _percent(rate: RateJson) -> str:
    return "n/a" if rate["value"] is None else f"{100 * rate['value']:.0f} %"
