"""How all figures look: colours, axes, files.

Figures are objects of their own (no pyplot, no global state), so they can be drawn in any thread and without a display.
"""

import io
import os
import textwrap
import threading
from collections.abc import Iterable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# The series that stands for the harmful content given as text; it is gray in every figure.
TEXT_LABEL = "caption as text"

# Okabe and Ito's colour-blind-safe palette, in an order in which neighbours also differ in lightness.
PALETTE = ("#E69F00", "#56B4E9", "#0072B2", "#CC79A7", "#009E73", "#D55E00")
TEXT_COLOR = "#6B6B6B"
INK = "#222222"
MUTED = "#5A5A5A"
DPI = 200


def colors(labels: Iterable[str]) -> list[str]:
    """Gray for `TEXT_LABEL`, the palette in order for the others, so that rows keep their colour across figures."""
    colors, used = [], 0
    for label in labels:
        colors.append(TEXT_COLOR if label == TEXT_LABEL else PALETTE[used % len(PALETTE)])
        used += label != TEXT_LABEL
    return colors


def apply(axes: Axes, title: str, ylabel: str, grid: str = "y") -> None:
    axes.set_title(plain(title), loc="left", fontsize=11, fontweight="bold", color=INK)
    axes.set_ylabel(plain(ylabel), color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9A9A9A")
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis=grid, color="#E4E4E4", linewidth=0.8)  # pyrefly: ignore
    axes.set_axisbelow(True)


def legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    # A long legend in one line would be wider than the figure.
    columns = max(1, min(len(labels), int(figure.get_figwidth() * 14 // (max(map(len, labels), default=0) + 7))))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def plain(label: str) -> str:
    """For labels that matplotlib lays out itself, where "$" would start mathtext."""
    return label.replace("$", r"\$")


def wrap(text: str, width: int, lines: int) -> list[str]:
    return textwrap.wrap(" ".join(text.split()), width, max_lines=lines, placeholder=" …") or [""]


def png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return written.getvalue()


def save(figure: Figure, path: Path) -> None:
    """Written aside and moved into place, so that a reader never meets half a picture."""
    drawn = png(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    try:
        aside.write_bytes(drawn)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
