"""The figures of what is inside a model: curves over layers. NumPy and dicts in, one PNG out.

The order of every dict is the order of drawing. A curve of L + 1 values, L decoder blocks, starts at the embedding
output.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from tga_jax.report import figures


def plot_layer_cosine(
    panels: Mapping[str, Mapping[str, Mapping[str, Any]]], guide_layers: Mapping[str, tuple[int, ...]], path: Path
) -> None:
    """cos(I_j, C_j) over the layers j: matched pairs solid, mismatched dashed, dots at the layers that were guided.

    Args:
      panels: panel title -> label -> {"matched": [L + 1], "mismatched": [L + 1]}, for instance one panel of raw and
        one of centred cosines. Labels keep their colour across panels.
      guide_layers: label -> layers its loss acted on; labels may be missing.
      path: PNG to write.
    """
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    colors = dict(zip(labels, figures.colors(labels), strict=True))
    figure = Figure(figsize=(max(6.0, 4.8 * len(panels)), 4.4), layout="constrained")
    grid = figure.subplots(1, max(1, len(panels)), sharey=True, squeeze=False)[0]
    lowest = 0.0
    for axes, (title, curves) in zip(grid, panels.items(), strict=False):
        for label, pair in curves.items():
            matched, mismatched = np.asarray(pair["matched"]), np.asarray(pair["mismatched"])
            lowest = min(lowest, float(np.nanmin(matched)), float(np.nanmin(mismatched)))
            guided = [j for j in guide_layers.get(label, ()) if j < len(matched)]
            axes.plot(matched, color=colors[label], linewidth=2)
            axes.plot(mismatched, color=colors[label], linewidth=1.4, linestyle=(0, (4, 2.5)))
            axes.plot(guided, matched[guided], "o", color=colors[label], markersize=5.5)
        figures.apply(axes, title, "cos(image tokens, caption)" if axes is grid[0] else "")
        axes.set_xlabel("layer (0: embedding output)", color=figures.INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[0].set_ylim(max(-1.05, np.floor(lowest * 5) / 5 - 0.02), 1.03)
    handles = [Line2D([], [], color=colors[label], linewidth=2, label=figures.plain(label)) for label in labels]
    handles += [
        Line2D([], [], color=figures.MUTED, linewidth=2, label="own caption"),
        Line2D([], [], color=figures.MUTED, linewidth=1.4, linestyle=(0, (4, 2.5)), label="another's caption"),
    ]
    if guide_layers:
        handles.append(
            Line2D([], [], color=figures.MUTED, linestyle="", marker="o", markersize=5.5, label="guided layer")
        )
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(handles)), frameon=False, fontsize=9)
    figures.save(figure, path)


def plot_panels(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    path: Path,
    ratios: Sequence[str] = (),
    at: Sequence[int] | None = None,
) -> None:
    """Small panels side by side, three in a line, or four in two: shares over the layers, one line for each label.

    Args:
      panels: panel title -> label -> [L + 1]. Labels keep their colour across panels.
      path: PNG to write.
      ratios: titles of panels that show ratios instead of shares, on a logarithmic axis.
      at: the blocks that the values of every curve are of, instead of layers.
    """
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    colors = dict(zip(labels, figures.colors(labels), strict=True))
    columns = 2 if len(panels) == 4 else min(3, max(1, len(panels)))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(3.6 * columns, 2.9 * lines + 0.5), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, curves) in zip(grid, panels.items(), strict=False):
        for label, curve in curves.items():
            x = range(len(curve)) if at is None else at
            axes.plot(x, curve, color=colors[label], linewidth=2, label=figures.plain(label))
        figures.apply(axes, "\n".join(figures.wrap(title, 40, 2)), "")
        axes.set_xlabel("layer (0: embedding output)" if at is None else "block", color=figures.INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if title in ratios:
            axes.set_yscale("log")
        else:
            axes.set_ylim(-0.03, 1.05)
    handles = [Line2D([], [], color=colors[label], linewidth=2, label=figures.plain(label)) for label in labels]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=9)
    figures.save(figure, path)


def plot_refusal_by_layer(curves: Mapping[str, Any], start_layers: Mapping[str, int | None], path: Path) -> None:
    """Probability of the refusal tokens under the logit lens, over the layers; a ring marks where refusal starts, by
    rank among the changes, which may be at a low probability: the legend gives it.

    Args:
      curves: label -> [L + 1] probabilities.
      start_layers: label -> start layer, or None where refusal never starts; labels may be missing.
      path: PNG to write.
    """
    figure = Figure(figsize=(6.8, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for (label, curve), color in zip(curves.items(), figures.colors(curves), strict=True):
        values = np.asarray(curve)
        start = start_layers.get(label)
        text = label
        if label in start_layers:
            text += " (no ring)" if start is None else f" (ring: layer {start}, {100 * values[start]:.0f} %)"
        axes.plot(values, color=color, linewidth=2, marker=".", markersize=6, label=figures.plain(text))
        if start is not None:
            axes.plot(start, values[start], "o", markersize=12, markerfacecolor="none", color=color, markeredgewidth=2)
    figures.apply(axes, "What the logit lens reads, by layer", "probability of refusal tokens")
    axes.set_xlabel("layer (0: embedding output)", color=figures.INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(-0.03, 1.05)
    figures.legend(figure, axes)
    figures.save(figure, path)


def plot_curves(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    path: Path,
    *,
    ylabel: str,
    xlabel: str = "layer (0: embedding output)",
    first: int = 0,
    marks: Mapping[str, Mapping[str, int | None]] | None = None,
    levels: Mapping[str, Mapping[str, float]] | None = None,
) -> None:
    """Shares over the layers, one line for each label, in panels side by side of one scale.

    Args:
      panels: panel title -> label -> values at first, first + 1, ... Labels keep their colour across panels.
      path: PNG to write.
      marks: panel title -> label -> layer that gets a ring, the median start layer; None, or missing: none.
      levels: name -> label -> value, up to two names: drawn across every panel, the first dashed, the second dotted.
    """
    marks, levels = marks or {}, levels or {}
    labels = list(dict.fromkeys(label for curves in panels.values() for label in curves))
    colors = dict(zip(labels, figures.colors(labels), strict=True))
    figure = Figure(figsize=(max(6.8, 4.8 * len(panels)), 4.4), layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    highest = max(max(curve) for curves in [*panels.values(), {"": [0.1]}] for curve in curves.values())
    styles: dict[str, Any] = dict(zip(levels, ("--", ":"), strict=False))
    for axes, (title, curves) in zip(grid, panels.items(), strict=True):
        for label, curve in curves.items():
            axes.plot(range(first, first + len(curve)), curve, color=colors[label], linewidth=2, marker=".")
            at = marks.get(title, {}).get(label)
            if at is not None:
                axes.plot(at, curve[at - first], "o", markersize=12, markerfacecolor="none", color=colors[label])
            for name, style in styles.items():
                value = levels[name][label]
                highest = max(highest, value)
                axes.axhline(value, color=colors[label], linewidth=1.4, linestyle=style)
        figures.apply(axes, title, ylabel if axes is grid[0] else "")
        axes.set_xlabel(figures.plain(xlabel), color=figures.INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    grid[0].set_ylim(-0.03 * highest, min(1.05, 1.15 * highest))
    handles = [Line2D([], [], color=colors[label], linewidth=2, label=figures.plain(label)) for label in labels]
    if any(at is not None for found in marks.values() for at in found.values()):
        ring: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 10, "markerfacecolor": "none"}
        handles.append(Line2D([], [], color=figures.MUTED, label="median start layer", **ring))
    for name, style in styles.items():
        handles.append(Line2D([], [], color=figures.MUTED, linewidth=1.4, linestyle=style, label=figures.plain(name)))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=9)
    figures.save(figure, path)
