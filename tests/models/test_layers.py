"""The layers that have a gradient of their own."""

import jax
import numpy as np
import pytest

from tga_jax.models import layers


@pytest.mark.parametrize(
    ("x", "kernel", "contracted"),
    [((2, 5, 3), (3, 7), 1), ((2, 5, 3), (3, 2, 2, 4), 1), ((2, 5, 2, 3, 4), (2, 3, 4, 6), 3), ((3,), (3, 2), 1)],
)
def test_a_products_gradients_are_those_of_float64(x, kernel, contracted):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal(x), rng.standard_normal(kernel)
    axes = tuple(range(x.ndim - contracted, x.ndim)), tuple(range(contracted))
    y, pull = jax.vjp(lambda x, w: layers.product(x, w, (axes, ((), ()))), *(v.astype(np.float32) for v in (x, kernel)))
    wanted = np.tensordot(x, kernel, contracted)
    dy = rng.standard_normal(wanted.shape)
    dx, dkernel = pull(dy.astype(np.float32))
    rows = x.ndim - contracted
    np.testing.assert_allclose(y, wanted, atol=1e-5)
    np.testing.assert_allclose(
        dx, np.tensordot(dy, kernel, (range(rows, dy.ndim), range(contracted, kernel.ndim))), atol=1e-5
    )
    np.testing.assert_allclose(dkernel, np.tensordot(x, dy, (range(rows), range(rows))), atol=1e-5)
