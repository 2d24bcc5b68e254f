"""Exact search against brute force in float64, whole and by bounds on leading coordinates."""

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tga_jax.retrieval import search


@pytest.fixture(autouse=True, scope="module")
def small_chunks():
    """So small that a few hundred rows are several parts of several tiles."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(search, "_ROWS", 64)
        patched.setattr(search, "_sizes", lambda: (32, 32, 8))
        yield


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def near(rng: np.random.Generator, rows: np.ndarray, count: int, cosine: float) -> np.ndarray:
    """Queries at this cosine of some of the rows, in random directions."""
    own = rows[rng.integers(len(rows), size=count)]
    noise = rng.standard_normal(own.shape)
    noise = unit(noise - (noise * own).sum(-1, keepdims=True) * own)
    return unit(cosine * own + np.sqrt(1 - cosine**2) * noise)


def agrees(rows: np.ndarray, queries: np.ndarray, k: int, found: tuple[np.ndarray, np.ndarray]) -> None:
    """The scores are the K highest, of different rows that do have them; which of equal ones is left open."""
    scores, ids = found
    assert (scores.dtype, ids.dtype, scores.shape, ids.shape) == (np.float32, np.int64, *[(len(queries), k)] * 2)
    exact = queries.astype(np.float64) @ rows.T.astype(np.float64)
    there = min(k, len(rows))
    np.testing.assert_allclose(scores[:, :there], -np.sort(-exact, 1)[:, :there], atol=2e-6)
    np.testing.assert_allclose(scores[:, :there], np.take_along_axis(exact, ids[:, :there], 1), atol=2e-6)
    assert all(len(set(row)) == there for row in ids[:, :there].tolist())
    assert (scores[:, there:] == -np.inf).all()
    assert (ids[:, there:] == -1).all()


@hypothesis.settings(max_examples=20)
@hypothesis.given(
    st.integers(1, 200), st.integers(1, 70), st.sampled_from([1, 8, 210]), st.booleans(), st.integers(0, 2**32 - 1)
)
def test_the_highest_scores_of_all_rows(count, asked, k, sampled, seed):
    rng = np.random.default_rng(seed)
    rows, queries = unit(rng.standard_normal((count, 16))), unit(rng.standard_normal((asked, 16)))
    if count > 2:
        rows[count // 2] = rows[0]  # equal rows are different answers
    sample = unit(rng.standard_normal((8, 16))) if sampled else None
    agrees(rows, queries, k, search.Exact(rows, sample, k).search(queries, k))


@pytest.mark.parametrize("sign", [1, -1], ids=["positive", "all scores negative"])
def test_rows_of_the_last_chunk_that_are_not_there_are_never_found(sign):
    rows = unit(np.abs(np.random.default_rng(0).standard_normal((65, 8))))
    agrees(rows, sign * rows[:5], 65, search.Exact(rows).search(sign * rows[:5], 65))


@pytest.mark.parametrize(("cosine", "fewer"), [(0.99, True), (0.3, False)], ids=["near", "far"])
def test_as_few_leading_coordinates_as_the_queries_allow(cosine, fewer):
    rng = np.random.default_rng(1)
    rows = unit(rng.standard_normal((1000, 24)))
    exact = search.Exact(rows, near(rng, rows, 200, cosine), 1)
    assert (exact._basis is not None) == fewer
    queries = near(rng, rows, 90, cosine)
    agrees(rows, queries, 1, exact.search(queries, 1))


def test_queries_unlike_the_sample_are_asked_again_in_full(monkeypatch):
    rng = np.random.default_rng(2)
    rows = unit(rng.standard_normal((1000, 24)))
    exact = search.Exact(rows, near(rng, rows, 200, 0.99), 1)
    assert exact._basis is not None
    queries = np.concatenate([near(rng, rows, 20, 0.99), near(rng, rows, 20, 0.1)])
    asked = []
    real = exact._pass
    monkeypatch.setattr(exact, "_pass", lambda q, *rest: asked.append(len(q)) or real(q, *rest))
    agrees(rows, queries, 1, exact.search(queries, 1))
    assert asked[0] == 40
    assert 20 <= asked[1] < 40


def test_bounds_are_never_below_the_products():
    rng = np.random.default_rng(3)
    rows, queries = unit(rng.standard_normal((300, 24))), unit(rng.standard_normal((50, 24)))
    basis = np.linalg.qr(rng.standard_normal((24, 7)))[0].astype(np.float32)
    bounds = np.asarray(search._leading(queries, basis), np.float64) @ np.asarray(search._leading(rows, basis)).T
    products = queries.astype(np.float64) @ rows.T
    assert (bounds >= products - search._SLACK / 2).all()
    assert np.asarray(search._leading(rows, basis)).shape == (300, 8)


def test_half_precision_rows_from_a_file(tmp_path):
    rng = np.random.default_rng(4)
    rows = unit(rng.standard_normal((150, 16))).astype(np.float16)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    agrees(rows, queries := unit(rng.standard_normal((9, 16))), 4, search.Exact(mapped).search(queries, 4))
