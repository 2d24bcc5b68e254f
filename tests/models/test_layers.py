"""The layers that have a gradient of their own."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
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


def parameters(module: nn.Module, x: np.ndarray) -> dict:
    return module.init(jax.random.key(3), x)["params"]


def moved(params: dict) -> dict:
    """Not the zeros and ones that biases and scales start with."""
    rng = np.random.default_rng(4)
    return jax.tree.map(lambda p: (p + rng.standard_normal(p.shape)).astype(p.dtype), params)


def of_float64(module: nn.Module, params: dict, x: np.ndarray) -> tuple[np.ndarray, dict]:
    """The output, and the gradients of parameters and input of the sum of its sines, by flax in float64."""
    with jax.enable_x64(True):
        p, x = jax.tree.map(lambda a: jnp.asarray(a, jnp.float64), (params, x))
        loss = jax.grad(lambda p, x: jnp.sin(module.apply({"params": p}, x)).sum(), argnums=(0, 1))
        return jax.tree.map(np.asarray, (module.apply({"params": p}, x), loss(p, x)))


@pytest.mark.parametrize(
    ("ours", "flax", "shape"),
    [
        (layers.Dense(5), nn.Dense(5, dtype=jnp.float64), (3, 7, 6)),
        (layers.Dense((2, 4)), nn.DenseGeneral((2, 4), dtype=jnp.float64), (6,)),
        (layers.Dense((2, 4)), nn.DenseGeneral((2, 4), dtype=jnp.float64), (3, 7, 6)),
        (layers.Dense(5, axis=(-2, -1)), nn.DenseGeneral(5, axis=(-2, -1), dtype=jnp.float64), (2, 3, 4, 6)),
        (layers.LayerNorm(1e-3), nn.LayerNorm(epsilon=1e-3, dtype=jnp.float64), (3, 7, 6)),
        (layers.LayerNorm(), nn.LayerNorm(dtype=jnp.float64), (6,)),
        (layers.RMSNorm(1e-3, jnp.float32), nn.RMSNorm(epsilon=1e-3, dtype=jnp.float64), (3, 7, 6)),
        (layers.RMSNorm(1e-3, jnp.float32), nn.RMSNorm(epsilon=1e-3, dtype=jnp.float64), (6,)),
    ],
)
def test_a_layer_is_flaxs_and_its_gradients_are_those_of_float64(ours, flax, shape):
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32) * 3 + 1
    params = parameters(ours, x)
    # Trainings start from the same parameters.
    jax.tree.map(np.testing.assert_array_equal, params, parameters(flax.clone(dtype=None), x))
    params = moved(params)
    loss = jax.grad(lambda p, x: jnp.sin(ours.apply({"params": p}, x)).sum(), argnums=(0, 1))
    found, wanted = (ours.apply({"params": params}, x), loss(params, x)), of_float64(flax, params, x)
    chex.assert_trees_all_close(found, wanted, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("ours", [layers.Dense(64, dtype=jnp.bfloat16), layers.LayerNorm(dtype=jnp.bfloat16)])
def test_in_bfloat16_the_gradient_of_a_bias_is_summed_in_float32(ours):
    """4,096 equal gradients: a running sum in bfloat16 would stay at 256."""
    x = np.random.default_rng(6).standard_normal((4096, 64)).astype(jnp.bfloat16)
    params = moved(parameters(ours, x))
    grads = jax.grad(lambda p: ours.apply({"params": p}, x).sum())(params)
    assert ours.apply({"params": params}, x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(grads["bias"], np.full(64, 4096.0, np.float32))


@pytest.mark.parametrize(("platform", "products"), [("cpu", 2), ("cuda", 0), ("tpu", 0)])
def test_sums_of_gradients_are_products_on_cpus_alone(platform, products):
    ours = layers.LayerNorm()
    x = jnp.ones((4, 6))
    params = parameters(ours, x)
    loss = jax.jit(jax.grad(lambda p: ours.apply({"params": p}, x).sum()))
    lowered = loss.trace(params).lower(lowering_platforms=(platform,)).as_text()
    assert lowered.count("dot_general") == products
