import sys

import numpy as np
import pytest
from PIL import Image

from tga_jax.analysis import plots
from tga_jax.intervals import wilson

LABELS = ("base", "TGA (paper)", "TGA (ours)")
REFUSAL = "I'm sorry, but I can't help with that."
UNTRIED = wilson(0, 0).to_json()


def rate(percent):
    return wilson(percent, 100).to_json()


def check(path, width, height, colors=()):
    """A PNG of about this size in pixels (+- 20 %) that shows something, and these colours among it."""
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing left aside
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        assert abs(image.width / width - 1) < 0.2
        assert abs(image.height / height - 1) < 0.2
        pixels = np.asarray(image.convert("RGB"))
    inked = (pixels != 255).any(-1).mean()
    assert 0.01 < inked < 0.9
    assert (pixels[:, -3:] == 255).all(), "something runs out at the right edge"
    assert (pixels[-3:] == 255).all(), "something runs out at the bottom"
    for color in colors:
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert (pixels == wanted).all(-1).any(), f"{color} is nowhere"


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "figures" / "figure.png"


def test_dsr_by_scene(path):
    scenes = ("alcohol", "cigarette", "gun", "knife", "blood", "insulting", "explosives")
    rows = {plots.TEXT_LABEL: {scene: rate(100) for scene in scenes}}
    rows |= {f"image: {label}": {scene: rate(9 * i) for scene in scenes} for i, label in enumerate(LABELS)}
    rows["image: base"]["gun"] = UNTRIED
    del rows["image: base"]["knife"]
    plots.plot_dsr_by_scene(rows, path)
    check(path, 2120, 840, ["#6B6B6B", "#56B4E9", "#0072B2"])


def test_dsr_by_scene_where_a_series_was_never_tried(path):
    plots.plot_dsr_by_scene({"a": {"gun": UNTRIED}, "b": {"gun": rate(50)}}, path)
    check(path, 1200, 840, ["#56B4E9"])


def test_layer_cosine(path):
    curve = np.linspace(-0.1, 0.9, 9)
    curves = {label: {"matched": curve - 0.1 * i, "mismatched": curve / 2} for i, label in enumerate(LABELS)}
    plots.plot_layer_cosine({"raw": curves, "centred": curves}, {"TGA (ours)": (0, 1, 2)}, path)
    check(path, 1920, 880, ["#E69F00", "#56B4E9", "#0072B2"])


def test_refusal_by_layer(path):
    curves = {label: np.linspace(0, 0.3 * (i + 1), 9) for i, label in enumerate([plots.TEXT_LABEL, *LABELS])}
    plots.plot_refusal_by_layer(curves, {plots.TEXT_LABEL: 2, "base": None, "TGA (ours)": 8}, path)
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


def test_examples(path, image):
    answers = {"base": ["a cat on a red background " * 9, "costs $5 or $6", "", "x", " "], "TGA": [REFUSAL] * 5}
    verdicts = {"base": ["answer", "answer", "unknown", "answer", "unknown"], "TGA": ["refusal"] * 5}
    plots.plot_examples(np.stack([image] * 5), ["a cat on a red background"] * 5, answers, verdicts, path)
    check(path, 2032, 1270, ["#005A9C", "#A34700", "#3A3A3A"])


@pytest.mark.parametrize("answer", ["a dog", "a face with symbols on mouth on a yellow background and $x$ " * 4])
def test_overview(path, image, answer):
    plots.plot_overview(
        image,
        "a face with symbols on mouth on a yellow background",
        (REFUSAL, "refusal"),
        {"base": (answer, "answer"), "TGA (paper)": (answer, "answer"), "TGA (ours)": (REFUSAL, "refusal")},
        rate(100),
        dict(zip(LABELS, [rate(0), UNTRIED, rate(50)], strict=True)),
        dict(zip(LABELS, [rate(91), rate(90), rate(100)], strict=True)),
        path,
    )
    check(path, 2000, 1100, ["#6B6B6B", "#E69F00", "#56B4E9", "#0072B2", "#005A9C"])


def test_a_bad_figure_leaves_the_old_one(path, image):
    path.parent.mkdir()
    path.write_bytes(b"old")
    with pytest.raises(KeyError):
        plots.plot_examples(image[None], ["a cat"], {"base": ["a cat"]}, {"base": ["no such verdict"]}, path)
    assert path.read_bytes() == b"old"


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
