"""One rule for the method, IVF tuned to its recall, and its file."""

import re

import faiss
import jax
import numpy as np
import pytest

from tga_jax.errors import UserError
from tga_jax.retrieval import index
from tga_jax.retrieval.index import open_index


def unit(seed: int, count: int, size: int = 16) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


ROWS, QUERIES = unit(0, 400), unit(1, 60)


@pytest.mark.parametrize("method", ["exact", "flat", "ivf", "auto"])
def test_all_methods_find_the_nearest(method):
    found = open_index(ROWS.astype(np.float16), method, QUERIES)
    scores, rows = found.search(QUERIES[:7], 3)
    assert (scores.shape, rows.shape, scores.dtype, rows.dtype) == ((7, 3), (7, 3), np.float32, np.int64)
    exact = QUERIES[:7] @ ROWS.T
    assert np.mean(rows[:, 0] == exact.argmax(1)) >= (0.8 if method == "ivf" else 1)
    np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, 1), atol=2e-3)


def test_the_rule(monkeypatch):
    assert open_index(ROWS, "auto", QUERIES).what == "faiss flat"
    monkeypatch.setattr(index, "_FLAT_ROWS", 300)
    assert open_index(ROWS, "auto").what == "faiss flat"  # nothing to tune IVF with
    # Random queries: a sixteenth of the lists do not hold 99 % of the nearest rows.
    assert open_index(ROWS, "auto", QUERIES).what.startswith("exact in JAX")
    found = open_index(ROWS, "auto", ROWS[:50])
    assert re.fullmatch(r"faiss IVF, \d of 80 lists probed, recall 1.000 on sampled queries", found.what)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(index, "Exact", lambda *_: type("Fake", (), {"leading": 16, "search": None}))
    assert open_index(ROWS, "auto", ROWS[:50]).what == "exact in JAX, 16 of 16 coordinates first"


def test_more_lists_are_probed_until_the_recall_is_reached():
    best = (QUERIES @ ROWS.T).max(1)
    made = index.train_ivf(ROWS, 40)
    recalls = {}
    for most in (1, 4, 40):
        recalls[most] = index.tune(made, QUERIES, best, most)
        assert made.nprobe <= most
        found = made.search(QUERIES, 1)[0][:, 0]
        assert recalls[most] == pytest.approx(np.mean(found >= best - 1e-5))
    assert recalls[1] < recalls[4] < index.RECALL <= recalls[40]


def test_the_lists_are_kept_in_a_file_and_read_again(tmp_path, monkeypatch):
    file = tmp_path / "new" / "ivf.faiss"
    first = open_index(ROWS, "ivf", QUERIES, file).search(QUERIES, 2)
    assert faiss.read_index(str(file)).ntotal == 400
    monkeypatch.setattr(index, "train_ivf", lambda *_: pytest.fail("trained again"))
    again = open_index(ROWS, "ivf", QUERIES, file).search(QUERIES, 2)
    np.testing.assert_array_equal(first[1], again[1])
    with pytest.raises(UserError, match=re.escape(f"{file}: not of these 399 rows; remove it to make it again")):
        open_index(ROWS[1:], "ivf", QUERIES, file)
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=re.escape(f"{file}: cannot be read as a faiss index; remove it")):
        open_index(ROWS, "ivf", QUERIES, file)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="method: 'fast', expected one of auto, exact, flat, ivf"):
        open_index(ROWS, "fast")
    with pytest.raises(ValueError, match="method 'ivf' without sample"):
        open_index(ROWS, "ivf")
