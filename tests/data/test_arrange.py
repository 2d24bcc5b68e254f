"""Which samples come together: none lost, none twice, rows about as long."""

import hypothesis
import hypothesis.strategies as st
import numpy as np

from tga_jax.bench import lengths
from tga_jax.data.arrange import arranged, evenly

WINDOWS = st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 4)).flatmap(
    lambda sizes: st.tuples(
        st.just(sizes),
        st.lists(st.integers(1, 3000), min_size=int(np.prod(sizes)), max_size=int(np.prod(sizes))),
        st.integers(0, 2**32 - 1),
    )
)


@hypothesis.given(WINDOWS)
def test_every_sample_comes_once(window):
    """In any number of batches, rows a batch and samples a row; the same again for the same seed."""
    (batches, rows, pack), tokens, seed = window
    tokens = np.array(tokens)
    found = [arranged(tokens, tokens % 3 > 0, batches, pack, np.random.default_rng(seed)) for _ in range(2)]
    assert found[0].shape == (batches, rows * pack)
    np.testing.assert_array_equal(np.sort(found[0].ravel()), np.arange(len(tokens)))
    np.testing.assert_array_equal(*found)
    sizes = np.sort(tokens[found[0]].reshape(batches, rows, pack).sum(2), axis=1)
    order = np.argsort(sizes[:, 0], kind="stable")
    if pack > 1:  # a batch's rows are all at most as long as the next one's
        assert (sizes[order][:-1, -1] <= sizes[order][1:, 0]).all()


def test_rows_are_even():
    """No row is longer than the mean by more than the longest sample, and of many samples hardly at all."""
    rng = np.random.default_rng(0)
    tokens = rng.lognormal(6, 0.8, 4096).astype(int)
    totals = tokens[evenly(tokens, 8)].sum(1)
    assert len(totals) == 512
    assert totals.max() <= totals.mean() + tokens.max()
    assert np.quantile(totals, 0.9) < 1.05 * totals.mean()


def test_by_hand():
    np.testing.assert_array_equal(evenly(np.array([5, 1, 4, 2, 3, 3]), 2), [[0, 1], [2, 3], [4, 5]])
    np.testing.assert_array_equal(evenly(np.array([5, 1, 4, 2, 3, 3]), 3), [[0, 1, 5], [2, 3, 4]])


def test_padding_of_lengths_such_as_llavas():
    """What tga_jax/bench/README.md says of it."""
    tokens, pictured = lengths.llava(16 * 64, 576, 1280, np.random.default_rng(0))

    def padding(pack: int, step: int) -> float:
        order = arranged(tokens, pictured, 16, pack, np.random.default_rng(1))
        rows = tokens[order].reshape(16, -1, pack).sum(2)
        return float(1 - rows.sum() / (rows.shape[1] * step * np.ceil(rows.max(1) / step)).sum())

    assert padding(1, 128) > 0.1
    assert padding(4, 128) < 0.04
    assert padding(8, 128) < 0.02
