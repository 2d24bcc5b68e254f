"""What the numbers of a training step may not depend on: padding, the order of the rows, the run; and how far bfloat16
leads away from float32. Values against float64 are in test_losses.py and tests/guides."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_support import GUIDES, KEY, MODEL, ROWS, batch_of, parameters, take

from tga_jax.data.batch import Batch
from tga_jax.train import step
from tga_jax.train.step import LossConfig

guides = pytest.mark.parametrize(
    "guide",
    [pytest.param(g, marks=[] if name == "paper" else pytest.mark.slow, id=name) for name, g in GUIDES.items()],
)


@functools.partial(jax.jit, static_argnums=(0, 1))
def learned(guide, dtype: str, params: dict, batch: Batch):
    """(loss, metrics, gradients)"""
    model = dataclasses.replace(MODEL, llm=dataclasses.replace(MODEL.llm, dtype=dtype))

    def loss(params):
        return step.loss_fn(model, LossConfig(guide=guide), params, batch, KEY, jnp.asarray(0.25))

    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
    return value, metrics, grads


def longer(batch: Batch, count: int) -> Batch:
    """Padding of `count` more positions and captions' positions behind every row, and as many empty rows."""
    fields = batch._asdict()
    for name in ("tokens", "valid", "targets", "image_mask", "retrieved_mask", "caption_tokens", "caption_mask"):
        fields[name] = np.pad(fields[name], ((0, count), (0, count)))
    features = batch.image_features
    fields["image_features"] = np.pad(features, ((0, count), *[(0, 0)] * (features.ndim - 1)))
    return Batch(**fields)


def assert_same(found, expected) -> None:
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for name in expected[1].keys() - {"cos_mismatched"}:  # which is of the row before
        np.testing.assert_allclose(found[1][name], expected[1][name], rtol=1e-5, atol=1e-6, err_msg=name)
    chex.assert_trees_all_close(found[2], expected[2], rtol=1e-4, atol=1e-5)


@guides
def test_the_order_of_the_rows_changes_nothing_and_the_run_not_a_bit(guide):
    batch, params = batch_of((*ROWS, "full")), parameters()
    expected = learned(guide, "float32", params, batch)
    chex.assert_trees_all_equal(learned(guide, "float32", params, batch), expected)
    assert_same(learned(guide, "float32", params, take(batch, [4, 2, 0, 3, 1])), expected)


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
def test_more_padding_and_empty_rows_change_neither_losses_nor_gradients(guide):
    """Of the losses alone, test_step_masks.py says so in every CI run."""
    batch, params = batch_of((*ROWS, "full")), parameters()
    expected = learned(guide, "float32", params, batch)
    assert_same(learned(guide, "float32", params, longer(batch, 3)), expected)


@guides
def test_bfloat16_stays_near_float32(guide):
    """Its eight bits round by at most 2^-9, over some ten operations one behind the other: the loss keeps within 2 %,
    and the gradient of each part of the model within 10 degrees."""
    batch, params = batch_of((*ROWS, "full")), parameters()
    exact, half = (learned(guide, dtype, params, batch) for dtype in ("float32", "bfloat16"))
    assert float(half[0]) != float(exact[0])
    np.testing.assert_allclose(half[0], exact[0], rtol=0.02)
    for part in ("projector", "llm"):
        one, other = (jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(g[2][part])]) for g in (exact, half))
        assert other.dtype == jnp.float32
        sizes = jnp.linalg.norm(one), jnp.linalg.norm(other)
        assert float(one @ other / (sizes[0] * sizes[1])) > np.cos(np.radians(10)), part
        np.testing.assert_allclose(sizes[1], sizes[0], rtol=0.1, err_msg=part)
