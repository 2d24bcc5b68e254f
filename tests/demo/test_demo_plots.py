import numpy as np
import pytest
from plots_support import LABELS, REFUSAL, UNTRIED, check, rate

from tga_jax.demo import plots
from tga_jax.report.figures import TEXT_LABEL


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "figures" / "figure.png"


def test_dsr_by_scene(path):
    scenes = ("alcohol", "cigarette", "gun", "knife", "blood", "insulting", "explosives")
    rows = {TEXT_LABEL: {scene: rate(100) for scene in scenes}}
    rows |= {f"image: {label}": {scene: rate(9 * i) for scene in scenes} for i, label in enumerate(LABELS)}
    rows["image: base"]["gun"] = UNTRIED
    del rows["image: base"]["knife"]
    plots.plot_dsr_by_scene(rows, path)
    check(path, 2120, 840, ["#6B6B6B", "#56B4E9", "#0072B2"])


def test_dsr_by_scene_where_a_series_was_never_tried(path):
    plots.plot_dsr_by_scene({"a": {"gun": UNTRIED}, "b": {"gun": rate(50)}}, path)
    check(path, 1200, 840, ["#56B4E9"])


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
