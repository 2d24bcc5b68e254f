"""Samples to rows and back, with their gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tga_jax.models.packing import packing

# Two rows of two samples: `a b -`, `c d e` and `f - -`, an empty one.
VALID = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]], bool)
ROWS = jnp.array([[0, 1, 3, 4, 5, -1], [0, -1, -1, -1, -1, -1]])
X = jnp.arange(1, 13).reshape(4, 3)
PACKED = np.array([[1, 2, 4, 5, 6, 0], [7, 0, 0, 0, 0, 0]])


def test_there_and_back():
    made = packing(ROWS, jnp.asarray(VALID))
    assert made is not None
    np.testing.assert_array_equal(made.places, [[0, 1, -1], [2, 3, 4], [0, -1, -1], [-1, -1, -1]])
    np.testing.assert_array_equal(made.valid, VALID)
    np.testing.assert_array_equal(made.pack(X), PACKED)
    np.testing.assert_array_equal(made.unpack(made.pack(X)), X * VALID)
    deeper = made.pack(jnp.stack([X, -X], -1)[:, :, None])
    np.testing.assert_array_equal(deeper, np.stack([PACKED, -PACKED], -1)[:, :, None])
    assert packing(None, jnp.asarray(VALID)) is None


def test_segments_stay_with_their_samples():
    made = packing(ROWS, jnp.asarray(VALID))
    assert made is not None
    segments = np.stack([VALID, VALID & (np.arange(3) == 1)], axis=1)  # of every sample: all of it, its second token
    found = made.pack_segments(jnp.asarray(segments))
    expected = [
        [[1, 1, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 0, 0]],
        [[1, 0, 0, 0, 0, 0], [0] * 6, [0] * 6, [0] * 6],
    ]
    np.testing.assert_array_equal(found, np.array(expected, bool))


@pytest.mark.parametrize("name", ["pack", "unpack"])
def test_the_gradient_is_that_of_plain_indexing(name):
    made = packing(ROWS, jnp.asarray(VALID))
    assert made is not None
    rng = np.random.default_rng(0)
    shape, out = ((4, 3, 2), (2, 6, 2)) if name == "pack" else ((2, 6, 2), (4, 3, 2))
    x, weights = (jnp.asarray(rng.standard_normal(s).astype(np.float32)) for s in (shape, out))
    at = ROWS if name == "pack" else np.asarray(made.places).reshape(2, 6)

    def plain(x):
        rows = x.reshape(2, 6, 2)
        return jnp.stack([jnp.where((i >= 0)[:, None], row[i], 0) for row, i in zip(rows, at, strict=True)]).reshape(
            out
        )

    ours, theirs = (jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x)) * weights))(x) for f in (getattr(made, name), plain))
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
