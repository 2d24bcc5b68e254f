"""Samples that share rows learn what they do with a row each: losses, metrics and gradients."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from step_support import GUIDES, KEY, MODEL, RELEASED, STAGE_2, C, P, batch_of, parameters
from test_step_lora import with_lora

from tga_jax.data.batch import Batch
from tga_jax.data.tokens import Shared, Tokens, before_targets, padded, shared_rows
from tga_jax.models import llava
from tga_jax.train import optim, step
from tga_jax.train.step import LossConfig

# A text alone beside a picture, a sample without a caption, one without R, two pictures and the zeros of a second one.
KINDS = ("full", "text", "no caption", "no retrieved", "two pictures", "full")


def mixed() -> Batch:
    """Of `KINDS`, with room for two pictures."""
    rows = [batch_of((kind,), seed) for seed, kind in enumerate(KINDS)]
    features = [row.image_features for row in rows]
    features = [np.pad(x, ((0, 0), (0, 2 - x.shape[1]), (0, 0), (0, 0)), constant_values=7.0) for x in features]
    rows = [row._replace(image_features=x) for row, x in zip(rows, features, strict=True)]
    return jax.tree.map(lambda *x: np.concatenate(x), *rows)


def shared(batch: Batch, samples: int, length: int, labels: int | None = None) -> Batch:
    """The same samples in rows of `length`, as the pipeline puts them there."""
    tokens = [
        Tokens(t[v], x[v], m[v], r[v], np.zeros(1, np.int32))
        for t, v, x, m, r in zip(*batch[:5], strict=True)  # up to `retrieved_mask`
    ]
    places, before = shared_rows(tokens, batch.tokens.shape[1], Shared(samples, length))
    found = None if labels is None else padded(before, labels, -1)
    return batch._replace(rows=padded(places, length, -1), label_positions=found)


def both(model: llava.LlavaConfig, config: LossConfig, params: dict, *batches: Batch):
    """(metrics, gradients) of each batch."""

    @jax.jit
    def run(params, batch):
        def loss(params):
            return step.loss_fn(model, config, params, batch, KEY, jnp.asarray(0.25))

        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params)
        return metrics, grads

    return [run(params, batch) for batch in batches]


def assert_same(one, other) -> None:
    assert one[0].keys() == other[0].keys()
    for name in one[0]:
        np.testing.assert_allclose(other[0][name], one[0][name], rtol=1e-5, atol=1e-6, err_msg=name)
    chex.assert_trees_all_close(other[1], one[1], rtol=1e-5, atol=1e-5)


_GUIDES = [
    pytest.param(guide, marks=[] if name == "paper" else pytest.mark.slow, id=name) for name, guide in GUIDES.items()
]


@pytest.mark.parametrize("guide", _GUIDES)
def test_sharing_a_row_changes_nothing(guide):
    """Rows of three, one of them filled to its last place; the noise on the embeddings is each sample's own, too."""
    batch = mixed()
    longest = int(batch.valid.sum(1).reshape(-1, 3).sum(1).max())
    config = LossConfig(guide=guide, embedding_noise=1.0)
    assert_same(*both(MODEL, config, parameters(), batch, shared(batch, 3, longest)))


@pytest.mark.slow
def test_a_sample_alone_fills_a_row():
    """Beside one that is empty, as a picture that cannot be read leaves it."""
    batch = batch_of(("full", "text", "full", "no retrieved"))
    empty = {name: getattr(batch, name).copy() for name in ("valid", "targets", "image_mask", "retrieved_mask")}
    for array in empty.values():
        array[[1, 2]] = False
    batch = batch._replace(**empty)
    length = int(batch.valid.sum(1).max())
    made = shared(batch, 2, length)
    assert (made.rows >= 0).all(1).any()
    assert_same(*both(MODEL, LossConfig(guide=RELEASED), parameters(), batch, made))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "remat", "window"), [("blocks", "names", None), ("blocks", "full", 3), ("xla", "none", 3)]
)
def test_with_any_attention_and_what_is_computed_again(attention, remat, window):
    """By 3 positions back no sample sees its neighbour either."""
    llm = dataclasses.replace(MODEL.llm, attention=attention, remat=remat, sliding_window=window)
    model, batch = dataclasses.replace(MODEL, llm=llm), mixed()
    params = jax.jit(lambda: llava.init(MODEL, jax.random.key(0)))()
    assert_same(*both(model, LossConfig(guide=RELEASED), params, batch, shared(batch, 2, 30)))


@pytest.mark.slow
def test_with_lora():
    model, params = with_lora()
    batch = mixed()
    assert_same(*both(model, LossConfig(guide=RELEASED), params, batch, shared(batch, 3, 43)))


@pytest.mark.slow
def test_logits_at_the_labels_alone():
    batch, config = mixed(), LossConfig(guide=GUIDES["paper"])
    alone = padded(
        [before_targets(Tokens(t, x, x, x, t)) for t, x in zip(batch.tokens, batch.targets, strict=True)], 5, -1
    )
    assert_same(
        *both(MODEL, config, parameters(), batch._replace(label_positions=alone), shared(batch, 3, 40, labels=14))
    )


@pytest.mark.slow
def test_a_target_at_a_samples_start_is_not_predicted_by_its_neighbour():
    batch = mixed()
    targets = batch.targets.copy()
    targets[:, 0] = True
    batch = batch._replace(targets=targets)
    alone, whole, labels = both(
        MODEL, LossConfig(), parameters(), batch, shared(batch, 3, 40), shared(batch, 3, 40, labels=16)
    )
    assert_same(alone, whole)
    assert_same(alone, labels)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_and_what_it_logs(accumulate):
    """In parts, too, of whole rows."""
    batch = batch_of(("full", "text", "no caption", "no retrieved", "full", "full", "text", "full"))
    optimizer = optim.OptimConfig(1e-2, STAGE_2, warmup=0.0, clip_norm=1e9)
    params = jax.jit(lambda: llava.init(MODEL, jax.random.key(0)))()
    found = []
    for parts, given in ((1, batch), (accumulate, shared(batch, 2, 28))):
        one = dataclasses.replace(optimizer, accumulate=parts)
        state = step.init_state(params, one, 4)
        run = jax.jit(functools.partial(step.train_step, MODEL, LossConfig(guide=GUIDES["tiled"]), one, 4))
        found.append(run(state, given, KEY))
    (state, metrics), (other, packed) = found
    chex.assert_trees_all_close(state.opt_state[1].mu, other.opt_state[1].mu, rtol=1e-5, atol=1e-6)
    for name in metrics.keys() - {"padding"}:
        np.testing.assert_allclose(metrics[name], packed[name], rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(packed["padding"], 1 - batch.valid.sum() / (4 * 28), rtol=1e-6)
    np.testing.assert_allclose(metrics["padding"], 1 - batch.valid.mean(), rtol=1e-6)


def test_the_kinds_are_what_they_say():
    batch = mixed()
    assert batch.image_mask.sum(1).tolist() == [P, 0, P, P, 2 * P, P]
    assert batch.caption_tokens.shape == (6, C)
