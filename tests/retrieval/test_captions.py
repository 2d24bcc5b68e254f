"""R against brute force: the nearest text that is neither the own caption nor nearly the same."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tga_jax.retrieval import captions
from tga_jax.retrieval.captions import CaptionIndex, plain


def unit(rng: np.random.Generator, count: int, size: int) -> np.ndarray:
    x = rng.standard_normal((count, size)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@hypothesis.settings(max_examples=60)
@hypothesis.given(st.data())
def test_the_brute_force_nearest_that_is_neither_the_own_caption_nor_a_near_duplicate(data):
    count, queries, size = data.draw(st.integers(2, 40)), data.draw(st.integers(1, 6)), data.draw(st.integers(2, 6))
    limit = data.draw(st.sampled_from([None, 0.9, 0.5, -0.5]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    texts = [f"caption {i}" for i in rng.permutation(count)]
    rows, asked = unit(rng, count, size), unit(rng, queries, size)
    # Own captions may be the nearest, any other, or, without a limit, none of the texts (as for held-out pairs).
    own = [data.draw(st.sampled_from([*texts, "elsewhere"] if limit is None else texts)) for _ in range(queries)]
    own[0] = texts[int(np.argmax(rows @ asked[0]))]
    found = CaptionIndex(texts, rows).nearest(asked, own, limit)
    for query, mine, row in zip(asked, own, found, strict=True):
        cosines = {i: float(rows[i] @ query) for i, text in enumerate(texts) if text != mine}
        if limit is not None:
            cosines = {i: c for i, c in cosines.items() if rows[i] @ rows[texts.index(mine)] <= limit}
        assert (row == -1) == (not cosines)
        if cosines:
            assert cosines[row] >= max(cosines.values()) - 1e-6


def test_worked_example():
    index = CaptionIndex(["east", "north", "north-east"], np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32))
    queries = np.array([[1, 0], [1, 0], [0, 1], [0.1, 0.99]], np.float32)
    assert index.nearest(queries, ["east", "west", "north", "north-east"]).tolist() == [2, 0, 2, 1]
    # Above 0.7 to "east": itself and "north-east"; to "north", itself alone.
    assert index.nearest(queries[[0, 2]], ["east", "north"], 0.7).tolist() == [1, 2]
    assert index.nearest(queries[:1], ["north-east"], 0.5).tolist() == [-1]


@pytest.mark.parametrize("method", ["exact", "flat"])
def test_equal_embeddings_still_never_give_the_own_caption(method):
    index = CaptionIndex(["a", "b"], np.ones((2, 1), np.float32), method)
    assert index.nearest(np.ones((2, 1), np.float32), ["a", "b"]).tolist() == [1, 0]


def test_captions_that_differ_in_case_blanks_and_punctuation_are_the_same():
    assert plain("A dog,  on the\tGrass!") == plain("a dog on the grass.") == "adogonthegrass"
    assert plain("ﬁne “straße”") == plain("FINE STRASSE")
    assert len({plain(x) for x in ("🍎", "🍌", "a+b", "ab", "का", "की", "1", "2")}) == 8
    texts = ["A dog.", "a  dog", "A DOG!", "a cat"]
    rows = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float32)
    assert CaptionIndex(texts, rows).nearest(rows[:1], ["a dog"]).tolist() == [3]


def test_further_away_texts_are_looked_at_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(captions, "_MOST", 40)
    angles = np.linspace(0, 1.5, 60)
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    index = CaptionIndex([f"caption {i}" for i in range(60)], rows)
    excluded = [float(rows[0] @ rows[i]) - 1e-4 for i in (20, 39, 40)]  # all before the i-th
    assert [int(index.nearest(rows[:1], ["caption 0"], limit)[0]) for limit in excluded] == [21, -1, -1]


def test_duplicate_texts_and_wrong_counts_are_refused():
    with pytest.raises(ValueError, match="3 texts, 2 different"):
        CaptionIndex(["a", "b", "a"], np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match="2 embeddings"):
        CaptionIndex(["a", "b", "c"], np.eye(2, dtype=np.float32))
    with pytest.raises(ValueError, match="at least two"):
        CaptionIndex(["a"], np.eye(1, dtype=np.float32))
    with pytest.raises(ValueError, match="longer than argument 1"):  # as many own captions as queries
        CaptionIndex(["a", "b"], np.eye(2, dtype=np.float32)).nearest(np.eye(2, dtype=np.float32), ["a"])
