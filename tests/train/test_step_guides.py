"""The guides in the train step: against the decoder run by hand, and where their gradients go."""

import dataclasses
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_support import (
    INSTRUCTION,
    KEY,
    MODEL,
    PAPER,
    RELEASED,
    ROWS,
    STAGE_1,
    STAGE_2,
    TILED,
    C,
    batch_of,
    evaluate,
    every_guide,
    gradient,
    largest,
    parameters,
    take,
)

from tga_jax.data.batch import Batch
from tga_jax.guides import Instruction, Paper, Released, Tiled
from tga_jax.models import llama, llava
from tga_jax.train import optim, step
from tga_jax.train.step import LossConfig


def states_of(params: dict, x, valid):
    """All hidden states of the whole decoder."""
    decoder = llama.Decoder(MODEL.llm, emit_states=True)
    positions = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
    return decoder.apply({"params": params["llm"]}, x, positions, valid).states


def mean_over(states, mask):
    """[L+1, B, T, D], bool [B, T] -> [L+1, B, D]."""
    weights = mask / np.maximum(mask.sum(1, keepdims=True), 1)
    return jnp.sum(states * weights[None, :, :, None].astype(np.float32), axis=2)


def pooled_by_hand(guide, params: dict, caption_params: dict, batch: Batch):
    x = llava.embed(MODEL, params, batch.tokens, batch.image_mask, batch.image_features)
    states = states_of(params, x, batch.valid)
    text = caption_params["llm"]["embed"]["embedding"][batch.caption_tokens]
    valid = np.arange(C)[None] <= batch.caption_mask.sum(1)[:, None]
    layers = np.array(guide.layers)
    caption = mean_over(states_of(caption_params, text, valid), batch.caption_mask)[layers]
    image, retrieved = (mean_over(states, m)[layers] for m in (batch.image_mask, batch.retrieved_mask))
    pair = batch.image_mask.any(1) & batch.caption_mask.any(1)

    def cos(a, b):
        return jnp.sum(a * b, -1) / jnp.linalg.norm(a, axis=-1) / jnp.linalg.norm(b, axis=-1)

    both = np.flatnonzero(pair)
    hinge = np.flatnonzero(pair & batch.retrieved_mask.any(1))
    s, near = 0.25, cos(image[:, both], caption[:, both])
    difference = cos(retrieved[:, hinge], caption[:, hinge]) - cos(image[:, hinge], caption[:, hinge])
    if isinstance(guide, Paper):
        return jnp.sum(jnp.mean(-near, 1)) + (1 - s) * jnp.sum(jnp.mean(jnp.log(1 + jnp.exp(difference)), 1))
    return (1 - s) / 4 * jnp.mean(jnp.exp(-near)) + (1 - s) ** 2 / 10 * jnp.mean(jnp.exp(difference))


POOLED = pytest.mark.parametrize(
    "guide", [RELEASED, dataclasses.replace(PAPER, layers=(1, 2, 3))], ids=["released", "paper"]
)
ROWS_OF_BATCHES = pytest.mark.parametrize("kinds", [ROWS, ("two pictures",) * 2], ids=["mixed", "two pictures"])


@POOLED
@ROWS_OF_BATCHES
def test_a_pooled_guide_equals_the_hand_written_one_on_all_hidden_states(guide, kinds):
    batch, params = batch_of(kinds), parameters()
    loss, metrics = evaluate(LossConfig(lm=0.0, guide=guide), params, batch)
    np.testing.assert_allclose(loss, jax.jit(lambda p: pooled_by_hand(guide, p, p, batch))(params), rtol=1e-5)
    np.testing.assert_array_equal(loss, metrics["guide"])


def test_without_layers_the_paper_takes_every_block():
    batch, params = batch_of(), parameters()
    named = dataclasses.replace(PAPER, layers=(1, 2, 3))
    for one, other in zip(
        *(evaluate(LossConfig(guide=g), params, batch)[1].items() for g in (PAPER, named)), strict=True
    ):
        assert one[0] == other[0]
        np.testing.assert_array_equal(one[1], other[1])


@POOLED
def test_no_gradient_flows_through_the_caption(guide):
    """The gradient is that of a loss whose caption states are constants, and not that of one where they move."""
    batch, params = batch_of(), parameters()
    ours = gradient(LossConfig(lm=0.0, guide=guide), params, batch)
    constant = jax.jit(jax.grad(lambda p: pooled_by_hand(guide, p, params, batch)))(params)
    chex.assert_trees_all_close(ours, constant, rtol=1e-3, atol=1e-6)
    through = jax.jit(jax.grad(lambda p: pooled_by_hand(guide, params, p, batch)))(params)
    assert largest(through["llm"]) > 1e-3


def tiled_words(batch: Batch, b: int) -> list[int]:
    caption, count = batch.caption_tokens[b][batch.caption_mask[b]], int(batch.image_mask[b].sum())
    return [int(caption[(p - count) % len(caption)]) for p in range(count)] if len(caption) else []


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def test_tiled_guide_at_layer_0_against_float64():
    guide = dataclasses.replace(TILED, layers=(0,))
    batch, params = batch_of(seed=30), parameters()
    table = np.asarray(params["llm"]["embed"]["embedding"], np.float64)
    one, two = (params["projector"][f"linear_{i}"] for i in (1, 2))
    fits, cross = [], []
    for b in (0, 1):  # the rows with an image and a caption
        hidden = batch.image_features[b, 0].astype(np.float64) @ np.asarray(one["kernel"]) + np.asarray(one["bias"])
        image = gelu(hidden) @ np.asarray(two["kernel"]) + np.asarray(two["bias"])
        words = tiled_words(batch, b)
        target = table[words]
        fits.append(np.mean(np.sum((image - target) ** 2, -1)) / np.mean(np.sum(target**2, -1)))
        logits = image @ table.T
        cross.append(np.mean([np.log(np.exp(z).sum()) - z[w] for z, w in zip(logits, words, strict=True)]))
    expected = 0.75 * 0.7 * (np.mean(fits) + 0.3 * np.mean(cross))
    loss, metrics = evaluate(LossConfig(lm=0.0, guide=guide), params, batch)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["guide_error"], np.mean(fits), rtol=1e-5)


def by_token_by_hand(guide, params: dict, caption_params: dict, batch: Batch):
    """The loss over rows that all have an image and a caption."""
    x = llava.embed(MODEL, params, batch.tokens, batch.image_mask, batch.image_features)
    states = states_of(params, x, batch.valid)
    table = caption_params["llm"]["embed"]["embedding"]
    words = np.array([tiled_words(batch, b) for b in range(len(batch.tokens))])
    tokens = np.array(batch.tokens)
    for b in range(len(words)):
        tokens[b, np.flatnonzero(batch.image_mask[b])] = words[b]
    twin = states_of(caption_params, table[tokens], batch.valid)
    fits, cross = [], []
    for b in range(len(words)):
        image = np.flatnonzero(batch.image_mask[b])
        places = image
        if isinstance(guide, Instruction):
            places = np.arange(image[-1] + 1, np.flatnonzero(batch.targets[b])[0])
        for j in guide.layers:
            fits.append(jnp.sum((states[j, b, places] - twin[j, b, places]) ** 2) / jnp.sum(twin[j, b, places] ** 2))
        log_probs = jax.nn.log_softmax(states[0, b, image] @ table.T)
        cross.append(-jnp.mean(log_probs[jnp.arange(len(image)), words[b]]))
    fit, vocab = jnp.mean(jnp.stack(fits)), jnp.mean(jnp.stack(cross))
    vocab_weight = guide.vocab_weight if isinstance(guide, Tiled) else 0.0
    return guide.weight * 0.75 * (fit + vocab_weight * vocab)


TWINS = pytest.mark.parametrize("guide", [TILED, INSTRUCTION], ids=["tiled", "instruction"])


@TWINS
@ROWS_OF_BATCHES
@pytest.mark.parametrize("lm", [0.0, 1.0])
def test_a_guide_through_the_twin_equals_the_decoder_run_by_hand(lm, kinds, guide):
    """Of the mixed rows the first two have an image and a caption."""
    batch, params = batch_of(kinds), parameters()
    _, metrics = evaluate(LossConfig(lm=lm, guide=guide), params, batch)
    expected = jax.jit(lambda p: by_token_by_hand(guide, p, p, take(batch, [0, 1])))(params)
    np.testing.assert_allclose(metrics["guide"], expected, rtol=1e-4)
    assert ("guide_words" in metrics) == (guide is TILED)


@TWINS
def test_no_gradient_flows_through_the_twin(guide):
    batch, params = take(batch_of(), [0, 1, 0, 1]), parameters()
    ours = gradient(LossConfig(lm=0.0, guide=guide), params, batch)
    constant = jax.jit(jax.grad(lambda p: by_token_by_hand(guide, p, params, batch)))(params)
    chex.assert_trees_all_close(ours, constant, rtol=1e-3, atol=1e-5)
    through = jax.jit(jax.grad(lambda p: by_token_by_hand(guide, params, p, batch)))(params)
    assert largest(through["llm"]) > 1e-3


@every_guide
def test_the_guide_gradient_reaches_what_trains(guide):
    """The released code's guide terms carry no gradient at all: this is the test that these do."""
    params, batch = parameters(), jax.tree.map(jnp.asarray, batch_of())
    for schedule, reached in ((STAGE_1, {"projector"}), (STAGE_2, {"projector", "llm"})):
        trainable, frozen = optim.partition(optim.OptimConfig(1e-3, schedule), params)
        assert {path.split("/")[0] for path in trainable} == reached

        def loss(trainable, frozen=frozen):
            params = optim.combine(trainable, frozen)
            return step.loss_fn(MODEL, LossConfig(lm=0.0, guide=guide), params, batch, KEY, jnp.asarray(0.25))

        (value, metrics), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(trainable)
        assert float(value) == float(metrics["guide"]) != 0
        for part in reached:
            assert largest({path: g for path, g in grads.items() if path.startswith(part)}) > 1e-3, part


def test_stop_gradient_leaves_the_language_gradient_as_it_is():
    params, batch = parameters(), batch_of()
    released = LossConfig(guide=dataclasses.replace(RELEASED, stop_gradient=True))
    chex.assert_trees_all_close(
        gradient(released, params, batch), gradient(LossConfig(), params, batch), rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("guide", [RELEASED, TILED], ids=["released", "tiled"])
def test_blocks_above_the_last_guide_layer_are_not_run(guide):
    params = parameters()
    blocks = jax.tree.map(lambda p: p.at[2:].set(jnp.nan), params["llm"]["blocks"])
    broken = {**params, "llm": {**params["llm"], "blocks": blocks}}
    config = LossConfig(lm=0.0, guide=guide)
    np.testing.assert_array_equal(evaluate(config, broken, batch_of())[0], evaluate(config, params, batch_of())[0])


@pytest.mark.parametrize(
    "guide", [Paper(layers=(0,)), Released(layers=(0,)), Tiled()], ids=["paper", "released", "tiled"]
)
def test_layer_0_alone_needs_no_block(guide):
    config = LossConfig(lm=0.0, guide=guide)
    params = parameters()
    without = {
        **params,
        "llm": {**params["llm"], "blocks": jax.tree.map(lambda p: p * jnp.nan, params["llm"]["blocks"])},
    }
    loss, _ = evaluate(config, without, batch_of())
    assert np.isfinite(loss)
    grads = gradient(config, params, batch_of())
    assert largest(grads["projector"]) > 0
    assert largest(grads["llm"]["blocks"]) == 0.0
