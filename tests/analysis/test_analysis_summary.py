"""Lines of samples summed up, against literals."""

import json

import numpy as np
import pytest

from tga_jax.analysis import page
from tga_jax.analysis.results import POOLED, Results
from tga_jax.analysis.summary import summary


def run(start, end, refused=False, probability=(0.0, 0.5, 1.0)) -> dict:
    return {"start": start, "end": end, "refused": refused, "probability": list(probability)}


def line(group: str, **fields) -> dict:
    return {"id": "x", "group": group, **fields}


def test_medians_and_means_by_group_and_input():
    lines = [
        line("harmful", runs={"text": run(1, 2, True), "image": run(None, None) | {"attention": [0.2, 0.4]}}),
        line("harmful", runs={"text": run(2, 2, True, (1.0, 0.5, 0.0))}),
        line("benign", runs={"image": run(None, None) | {"attention": [0.0, 0.1]}}),
        line("harmful", runs={"text": run(None, None)}),
    ]
    found = summary(lines, np.zeros((0, 2, 3, 4)), [7], seed=0)
    assert list(found["groups"]) == ["harmful", "benign"]
    harmful, benign = found["groups"].values()
    assert (harmful["samples"], harmful["without_caption"], benign["without_caption"]) == (3, 0, 1)
    text = harmful["runs"]["text"]
    assert text["n"] == 3
    assert text["start"] == {"median": 1, "counts": [0, 1, 1]}  # of 1 and 2, rounded down
    assert text["end"] == {"median": 2, "counts": [0, 0, 2]}
    assert text["no_activation"] == 1
    assert (text["refused"]["value"], text["refused"]["n"]) == (pytest.approx(2 / 3), 3)
    assert text["probability"] == {"n": 3, "mean": [0.333333, 0.5, 0.666667]}
    assert "attention" not in text
    assert harmful["runs"]["image"]["start"] == {"median": None, "counts": [0, 0, 0]}
    assert harmful["runs"]["image"]["attention"] == {"n": 1, "mean": [0.2, 0.4]}
    assert benign.keys() == {"samples", "without_caption", "runs"}
    assert benign["runs"].keys() == {"image"}


def test_medians_are_numpys():
    rng = np.random.default_rng(0)
    for size in range(1, 12):
        starts = rng.integers(0, 9, size).tolist()
        lines = [line("benign", runs={"text": run(s, s, probability=[0.0] * 9)}) for s in starts]
        found = summary(lines, np.zeros((0, 2, 9, 4)), [7], seed=0)
        assert found["groups"]["benign"]["runs"]["text"]["start"]["median"] == int(np.median(starts))


def test_image_tokens_and_ablations():
    def ablated(refused: list[bool]) -> dict:
        parts = {"none": refused[0], "all": refused[1], "windows": refused[2:]}
        return {"refused": parts, "probability": {**parts, "none": 0.25}}

    both = {"image": run(None, None), "text": run(None, None)}
    lines = [
        line("harmful", runs=both, image_top=[[7, 1], [7, 8]], ablation=ablated([False, True, True, False])),
        line("harmful", runs=both, image_top=[[1, 1], [7, 1]], ablation=ablated([False, True, False, False])),
    ]
    found = summary(lines, np.zeros((0, 2, 3, 4)), [7, 8], seed=0)["groups"]["harmful"]
    assert found["image_refusal"] == {"n": 2, "mean": [0.25, 0.75]}
    assert found["ablation"]["refused"] == {
        "none": {"n": 2, "mean": 0.0}, "all": {"n": 2, "mean": 1.0}, "windows": {"n": 2, "mean": [0.5, 0.0]}
    }  # fmt: skip
    assert found["ablation"]["probability"]["none"] == {"n": 2, "mean": 0.25}


def test_pairs_are_centred_over_all_and_averaged_by_group():
    """Two layers. At layer 0 own pairs agree but for a constant; at layer 1 all captions are the same."""
    rng = np.random.default_rng(1)
    image = rng.standard_normal((6, 8))
    pooled = np.ones((6, 2, 2, 8))
    pooled[:, 0] = image[:, None]
    pooled[:, 1, 0] = 3 * image + 100
    names = ["harmful", "benign", "harmful", "benign", "benign", "benign"]
    lines = [line("harmful", runs={"text": run(None, None)})]  # without a cosine: none of the pooled
    lines += [line(name, runs={"image": run(None, None)}, cosine=[0.0, 0.0]) for name in names]
    lines += [
        line("unlabelled", runs={"image": run(None, None)}, cosine=[0.0, 0.0])
    ]  # after those whose states are kept
    found = summary(lines, pooled, [7], seed=0)
    assert found["centred_over"] == 6
    harmful, benign = (found["groups"][name]["pairs"] for name in ("harmful", "benign"))
    assert (harmful["n"], benign["n"]) == (2, 4)
    assert "pairs" not in found["groups"]["unlabelled"]
    for pairs in (harmful, benign):
        assert pairs["centred"]["matched"] == pytest.approx([1, 0], abs=1e-6)
        assert max(pairs["centred"]["mismatched"]) < 0.7
    own = (image[[0, 2]] * (3 * image[[0, 2]] + 100)).sum(1)
    norms = np.linalg.norm(image[[0, 2]], axis=1) * np.linalg.norm(3 * image[[0, 2]] + 100, axis=1)
    assert harmful["raw"]["matched"][0] == pytest.approx((own / norms).mean(), rel=1e-5)
    assert summary(lines, pooled, [7], seed=0) == found
    assert summary(lines, pooled, [7], seed=3) != found


def test_one_sample_alone_has_no_pairs():
    lines = [line("benign", runs={"image": run(None, None)}, cosine=[0.5, 0.5])]
    found = summary(lines, np.ones((1, 2, 2, 4)), [7], seed=0)["groups"]["benign"]
    assert "pairs" not in found
    assert found["cosine"] == {"n": 1, "mean": [0.5, 0.5]}


def test_the_states_of_the_first_samples_are_kept_and_of_no_others(tmp_path):
    batch = [{"cosine": [0.0], "runs": {}}] * 100
    states = np.arange(300, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 3, 2), np.float32)
    results = Results(tmp_path, (2, 3, 2), 100, 1000)
    for start in range(0, 300, 100):
        results.append(batch, states[start : start + 100])
    for found in (results, Results(tmp_path, (2, 3, 2), 100, 1000)):
        np.testing.assert_array_equal(found.pooled(), states[:POOLED])
    assert results.pooled_path.stat().st_size == POOLED * 2 * 3 * 2 * 4
    # Continued with the third batch cut off, whose states are cut off with it.
    text = results.lines_path.read_text()
    results.lines_path.write_text(text[:-1])
    again = Results(tmp_path, (2, 3, 2), 100, 1000)
    assert again.done == 200
    np.testing.assert_array_equal(again.pooled(), states[:200])
    again.append(batch, states[200:])
    assert results.lines_path.read_text() == text
    np.testing.assert_array_equal(again.pooled(), states[:POOLED])


def test_what_a_person_wrote_is_text_on_the_page(tmp_path):
    lines = [line("benign", runs={"text": run(None, None)})]
    token = {"id": 7, "token": "<b>", "phrase": "<i>&", "position": 0}
    settings = {"checkpoint": "<script>", "data": "d", "window": 0, "phrases": ["<i>&"]}
    settings |= {"change": "difference", "floor": None, "top_k": 5}
    found = {**summary(lines, np.zeros((0, 2, 3, 4)), [7], 0), "refusal_tokens": [token], "settings": settings}
    page.write(json.loads(json.dumps(found)), tmp_path)
    text = (tmp_path / "report.html").read_text()
    for raw in ("<script>", "<i>", "<b>"):
        assert raw not in text
    assert "benign: 0 % of 1 given as text" in text
