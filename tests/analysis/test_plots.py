import sys

import numpy as np
import pytest
from plots_support import LABELS, check

from tga_jax.analysis import plots
from tga_jax.report.figures import TEXT_LABEL


@pytest.fixture
def path(tmp_path):
    return tmp_path / "figures" / "figure.png"


def test_layer_cosine(path):
    curve = np.linspace(-0.1, 0.9, 9)
    curves = {label: {"matched": curve - 0.1 * i, "mismatched": curve / 2} for i, label in enumerate(LABELS)}
    plots.plot_layer_cosine({"raw": curves, "centred": curves}, {"TGA (ours)": (0, 1, 2)}, path)
    check(path, 1920, 880, ["#E69F00", "#56B4E9", "#0072B2"])


def test_refusal_by_layer(path):
    curves = {label: np.linspace(0, 0.3 * (i + 1), 9) for i, label in enumerate([TEXT_LABEL, *LABELS])}
    plots.plot_refusal_by_layer(curves, {TEXT_LABEL: 2, "base": None, "TGA (ours)": 8}, path)
    check(path, 1360, 880, ["#6B6B6B", "#E69F00", "#56B4E9", "#0072B2"])


def test_panels(path):
    shares = {label: np.linspace(0, 1, 9) ** i for i, label in enumerate(LABELS)}
    panels = {f"share {i}, with a title that is longer than one line of it": shares for i in range(4)}
    panels["norm $x"] = {label: 100 * curve + 1 for label, curve in shares.items()}
    plots.plot_panels(panels, path, ratios=("norm $x",))
    check(path, 2160, 1260, ["#E69F00", "#56B4E9", "#0072B2"])


def test_one_panel(path):
    plots.plot_panels({"only": {"a": [0.0, 1.0], "b": [1.0, 0.5]}}, path)
    check(path, 720, 680, ["#E69F00", "#56B4E9"])


def test_no_global_state():
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_curves_with_marks_and_levels(path):
    curves = {label: np.linspace(0, 0.2 * i, 9).tolist() for i, label in enumerate(("harmful", "be$nign"))}
    plots.plot_curves(
        {"as a picture": curves, "as text": curves}, path, ylabel="share", first=1,
        marks={"as text": {"harmful": 9, "be$nign": None}},
        levels={"read at all": dict.fromkeys(curves, 0.5), "none": dict.fromkeys(curves, 0.0)},
    )  # fmt: skip
    check(path, 1920, 880, ["#E69F00", "#56B4E9"])


def test_one_curve_of_zeros(path):
    plots.plot_curves({"only": {"harmful": [0.0, 0.0]}}, path, ylabel="share")
    check(path, 1360, 880, ["#E69F00"])


def test_layer_cosine_without_guided_layers(path):
    plots.plot_layer_cosine({"raw": {"a": {"matched": [0.5, 1.0], "mismatched": [0.1, -0.4]}}}, {}, path)
    check(path, 1200, 880, ["#E69F00"])
