"""What masks keep out of the losses."""

import dataclasses

import chex
import jax
import numpy as np
import pytest
from step_support import (
    GUIDES,
    RELEASED,
    ROWS,
    C,
    batch_of,
    evaluate,
    every_guide,
    gradient,
    largest,
    parameters,
    take,
)

from tga_jax.guides import Transport
from tga_jax.train.step import LossConfig

EVERYTHING = [LossConfig(guide=guide) for guide in GUIDES.values()]


@pytest.mark.parametrize("config", EVERYTHING, ids=GUIDES)
def test_what_stands_in_padding_does_not_matter(config):
    batch, params = batch_of(), parameters()
    rng = np.random.default_rng(1)
    caption_valid = np.arange(C)[None] <= batch.caption_mask.sum(1)[:, None]
    has_image = batch.image_mask.any(1)
    spoiled = batch._replace(
        tokens=np.where(batch.valid, batch.tokens, rng.integers(0, 40, batch.tokens.shape)).astype(np.int32),
        caption_tokens=np.where(caption_valid, batch.caption_tokens, 39).astype(np.int32),
        # The picture of a row without an image.
        image_features=np.where(has_image[:, None, None, None], batch.image_features, np.float32(1e3)),
    )
    assert np.any(spoiled.tokens != batch.tokens)
    expected, metrics = evaluate(config, params, batch)
    loss, found = evaluate(config, params, spoiled)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    for name in ("lm", "guide", "accuracy"):
        np.testing.assert_allclose(found[name], metrics[name], rtol=1e-6)
    chex.assert_trees_all_close(
        gradient(config, params, spoiled), gradient(config, params, batch), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("config", EVERYTHING, ids=GUIDES)
def test_padding_may_be_longer(config):
    batch, params = batch_of(), parameters()
    longer = batch._replace(
        **{
            name: np.pad(getattr(batch, name), ((0, 0), (0, 3)))
            for name in ("tokens", "valid", "targets", "image_mask", "retrieved_mask", "caption_tokens", "caption_mask")
        }
    )
    np.testing.assert_allclose(evaluate(config, params, longer)[0], evaluate(config, params, batch)[0], rtol=1e-5)


@pytest.mark.parametrize("config", EVERYTHING, ids=GUIDES)
def test_samples_without_the_texts_get_no_guide_term(config):
    if isinstance(config.guide, Transport):  # how rare a word is depends on the captions of all rows
        config = dataclasses.replace(config, guide=dataclasses.replace(config.guide, masses="alike"))
    batch, params = batch_of(), parameters()
    whole = evaluate(config, params, batch)[1]["guide"]
    np.testing.assert_allclose(evaluate(config, params, take(batch, [0, 1, 0, 1]))[1]["guide"], whole, rtol=1e-5)
    for without in ([2] * 4, [3] * 4, [2, 3, 2, 3]):
        assert float(evaluate(config, params, take(batch, without))[1]["guide"]) == 0.0


def test_the_hinge_is_the_mean_over_samples_with_retrieved_text():
    guide = dataclasses.replace(RELEASED, pair_weight=0.0)
    config, params, batch = LossConfig(lm=0.0, guide=guide), parameters(), batch_of()
    whole = evaluate(config, params, batch)[0]
    np.testing.assert_allclose(evaluate(config, params, take(batch, [0] * 4))[0], whole, rtol=1e-5)
    assert float(evaluate(config, params, take(batch, [1] * 4))[0]) == 0.0


@every_guide
@pytest.mark.parametrize("pictures", [True, False], ids=["with pictures elsewhere", "without any picture"])
def test_an_all_text_batch_has_no_guide_loss(guide, pictures):
    batch, params = batch_of(("text",) * 4), parameters()
    batch = batch if pictures else batch._replace(image_features=None)
    loss, metrics = evaluate(LossConfig(guide=guide), params, batch)
    assert float(metrics.get("guide", 0.0)) == 0.0
    np.testing.assert_array_equal(loss, metrics["lm"])
    grads = gradient(LossConfig(guide=guide), params, batch)
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(grads))
    assert largest(grads["projector"]) == 0.0
    alone = gradient(LossConfig(lm=0.0, guide=guide), params, batch)
    assert largest(alone) == 0.0
    assert float(evaluate(LossConfig(lm=0.0, guide=guide), params, batch)[0]) == 0.0


def test_the_language_loss_is_the_mean_over_targets_of_single_rows():
    batch, params = batch_of(), parameters()
    whole = evaluate(LossConfig(), params, batch)[0]
    single = [float(evaluate(LossConfig(), params, take(batch, [b] * 4))[0]) for b in range(len(ROWS))]
    np.testing.assert_allclose(np.average(single, weights=batch.targets.sum(1)), whole, rtol=1e-5)
