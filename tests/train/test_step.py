"""Train steps: what moves, and ways to compute the same."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from step_support import (
    GUIDES,
    KEY,
    MODEL,
    RELEASED,
    ROWS,
    STAGE_1,
    STAGE_2,
    batch_of,
    evaluate,
    every_guide,
    gradient,
    parameters,
)

from tga_jax.models import llava
from tga_jax.train import optim, step
from tga_jax.train.step import LossConfig


def run_steps(config: LossConfig, optimizer: optim.OptimConfig, count: int, total: int = 40):
    state = step.init_state(parameters(), optimizer, total)
    one = jax.jit(functools.partial(step.train_step, MODEL, config, optimizer, total))
    history = []
    for _ in range(count):
        state, metrics = one(state, batch_of(), KEY)
        history.append(metrics)
    return state, history


@every_guide
def test_stage_1_moves_the_projector_only_and_learns(guide):
    decay = {"decay": "constant"} if hasattr(guide, "decay") else {"pair_decay": "constant", "hinge_decay": "constant"}
    guide = dataclasses.replace(guide, **decay)
    optimizer = optim.OptimConfig(1e-2, STAGE_1)
    state, history = run_steps(LossConfig(lm=0.0, guide=guide), optimizer, 40)
    assert int(state.step) == 40
    before = flatten_dict(parameters(), sep="/")
    assert {path.split("/")[0] for path in state.frozen} == {"clip", "llm"}
    for path, value in state.frozen.items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)
    for path, value in state.trainable.items():
        assert np.any(value != before[path]), path
    first, last = (float(history[i]["guide"]) for i in (0, -1))
    assert last < first - 0.1 * abs(first)
    if "cos_image_caption" in history[0]:
        assert float(history[-1]["cos_image_caption"]) > float(history[0]["cos_image_caption"]) + 0.1


def test_stage_2_moves_projector_and_decoder_only():
    state, history = run_steps(LossConfig(guide=RELEASED), optim.OptimConfig(1e-3, STAGE_2), 2)
    before = flatten_dict(parameters(), sep="/")
    for path, value in state.frozen.items():
        assert path.startswith("clip/")
        np.testing.assert_array_equal(value, before[path])
    # The first step has learning rate 0, the second moves everything.
    assert all(np.any(value != before[path]) for path, value in state.trainable.items())
    assert all(np.isfinite(float(v)) for metrics in history for v in metrics.values())


def test_the_decay_follows_the_step():
    """Nothing moves at learning rate 0, so the guide shrinks by its decay and nothing else."""
    guide = dataclasses.replace(RELEASED, hinge_weight=0.0)
    _, history = run_steps(LossConfig(lm=0.0, guide=guide), optim.OptimConfig(0.0, STAGE_1), 3, total=4)
    values = np.array([float(m["guide"]) for m in history])
    np.testing.assert_allclose(values / values[0], [1, 0.75, 0.5], rtol=1e-5)


def test_the_key_is_folded_with_the_step():
    _, history = run_steps(LossConfig(embedding_noise=5.0), optim.OptimConfig(0.0, STAGE_1), 3)
    assert len({float(m["loss"]) for m in history}) == 3


def test_logits_at_the_labels_alone_give_the_same_loss_and_gradient():
    batch, config = batch_of(), LossConfig(guide=RELEASED)
    rows = [np.flatnonzero(row[1:]) for row in batch.targets]
    positions = np.full((len(rows), 7), -1, np.int32)  # more than any row needs
    for i, found in enumerate(rows):
        positions[i, : len(found)] = found
    labelled = batch._replace(label_positions=positions)
    for one, other in zip(
        *(jax.tree.leaves(evaluate(config, parameters(), b)) for b in (batch, labelled)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    chex.assert_trees_all_close(
        gradient(config, parameters(), batch), gradient(config, parameters(), labelled), rtol=1e-7, atol=1e-6
    )


@pytest.mark.parametrize("remat", ["names", pytest.param("full", marks=pytest.mark.slow)])
def test_what_is_computed_again_gives_the_same_gradient(remat):
    config, batch = LossConfig(guide=RELEASED), batch_of()
    model = dataclasses.replace(MODEL, llm=dataclasses.replace(MODEL.llm, remat=remat))
    run = jax.jit(jax.grad(lambda p, b: step.loss_fn(model, config, p, b, KEY, jnp.asarray(0.25))[0]))
    grads = run(parameters(), batch)
    chex.assert_trees_all_close(grads, gradient(config, parameters(), batch), rtol=1e-7, atol=1e-6)


# The two that differ most in what they have to know of the whole step.
_IN_PARTS = [pytest.param(guide, marks=[] if n == "paper" else pytest.mark.slow, id=n) for n, guide in GUIDES.items()]


@pytest.mark.parametrize("guide", _IN_PARTS)
@pytest.mark.parametrize("parts", [4, pytest.param(2, marks=pytest.mark.slow)])
def test_an_accumulated_step_equals_the_whole_one(parts, guide):
    """Rows of unequal numbers of targets, without captions and without retrieved text, in every part."""
    batch = batch_of((*ROWS, "full", "text", "full", "no retrieved"))
    optimizer = optim.OptimConfig(1e-2, STAGE_2, warmup=0.0, clip_norm=1e9)
    loss = LossConfig(guide=guide)
    params = jax.jit(lambda: llava.init(MODEL, jax.random.key(0)))()
    found = []
    for count in (1, parts):
        one = dataclasses.replace(optimizer, accumulate=count)
        state = step.init_state(params, one, 4)
        run = jax.jit(functools.partial(step.train_step, MODEL, loss, one, 4))
        found.append(run(state, batch, KEY))
    (state, metrics), (other, accumulated) = found
    # Adam's first step is lr * g / (|g| + eps): moments say more about the gradient than the parameters.
    chex.assert_trees_all_close(state.opt_state[1].mu, other.opt_state[1].mu, rtol=1e-5, atol=1e-6)
    for name in metrics.keys() - {"cos_mismatched"}:
        np.testing.assert_allclose(metrics[name], accumulated[name], rtol=1e-5, err_msg=name)
