"""The guides through the text twin against float64 NumPy written from their equations, and their gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guides_support import DECAYS, HINGE, PAIR, batch_of, normal, seen, softmax

from tga_jax.guides import Instruction, Tiled

# Of the twin: words 4 and 5, repeated, the last one in the last place; or each said in turn.
WORDS = {"repeated": [5, 4, 5], "stretched": [4, 4, 5]}
TABLE = normal(5, 9, 5)


def reference(guide, states, twin, s: float, inputs) -> float:
    """The equations of the docstrings, on `batch_of(PAIR, HINGE)`: image tokens at 1 to 3, an instruction at 4."""
    places = [1, 2, 3] if isinstance(guide, Tiled) else [4]
    errors, cross = [], []
    for b in np.flatnonzero(PAIR):
        for j in range(len(states)):
            error = sum(np.sum((states[j, b, t] - twin[j, b, t]) ** 2) for t in places)
            errors.append(error / sum(np.sum(twin[j, b, t] ** 2) for t in places))
        logits = inputs[b, [1, 2, 3]].astype(np.float64) @ TABLE.astype(np.float64).T
        cross += [-np.log(softmax(z)[w]) for z, w in zip(logits, WORDS[guide.layout], strict=True)]
    words = guide.vocab_weight * np.mean(cross) if isinstance(guide, Tiled) else 0.0
    return guide.weight * DECAYS[guide.decay](s) * (np.mean(errors) + words)


def loss(guide, states, twin, s: float, inputs=None):
    batch = batch_of(PAIR, HINGE)
    inputs = states[0] if inputs is None else inputs
    return guide.loss(seen(guide, batch, states, twin, s, inputs=inputs, embeddings=jnp.asarray(TABLE)))


@pytest.mark.parametrize(
    "guide",
    [
        Tiled(layers=(0, 2), weight=0.25, decay="linear"),
        Tiled(layers=(0, 2), weight=3.0, decay="quadratic", vocab_weight=0.6),
        Tiled(layers=(0, 2), vocab_weight=0.6, layout="stretched"),
        Instruction(layers=(0, 2), weight=3.0, decay="linear"),
    ],
)
def test_against_float64(guide):
    states, twin = (jnp.array(normal(80 + i, 2, 4, 6, 5)) for i in range(2))
    for s in (0.0, 0.6):
        value, metrics = loss(guide, states, twin, s)
        as_numpy = np.asarray(states, np.float64), np.asarray(twin, np.float64)
        np.testing.assert_allclose(value, reference(guide, *as_numpy, s, np.asarray(states[0])), rtol=2e-6)
    if getattr(guide, "vocab_weight", 0):
        best = np.argmax(np.asarray(states[0])[:, [1, 2, 3]] @ TABLE.T, -1)
        np.testing.assert_allclose(metrics["guide_words"], (best == WORDS[guide.layout])[PAIR].mean(), rtol=1e-6)


def test_words_are_counted_at_the_image_tokens_of_pairs():
    """Of the first sample, which has no caption, none; of the third, the two that its picture has, and not a third."""
    guide, batch = Tiled(layers=(0, 2), vocab_weight=0.5), batch_of(PAIR, HINGE)
    captions, images = np.asarray(batch.caption_mask).copy(), np.asarray(batch.image_mask).copy()
    captions[0], images[2, 3] = False, False
    batch = batch._replace(caption_mask=jnp.asarray(captions), image_mask=jnp.asarray(images))
    states, twin = (jnp.array(normal(60 + i, 2, 4, 6, 5)) for i in range(2))
    found = guide.loss(seen(guide, batch, states, twin, 0.0, embeddings=jnp.asarray(TABLE)))[1]["guide_words"]
    best, words = np.argmax(np.asarray(states[0]) @ TABLE.T, -1), np.asarray(guide.twin(batch))
    counted = images & np.array([False, False, True, True])[:, None]
    assert counted.sum() == 5
    np.testing.assert_allclose(found, (best == words)[counted].mean(), rtol=1e-6)
    logits = np.asarray(states[0], np.float64) @ TABLE.astype(np.float64).T
    cross = [-np.log(softmax(logits[b, t])[words[b, t]]) for b, t in zip(*np.nonzero(counted), strict=True)]
    alone = dataclasses.replace(guide, vocab_weight=0.0)
    losses = [g.loss(seen(g, batch, states, twin, 0.0, embeddings=jnp.asarray(TABLE)))[0] for g in (guide, alone)]
    np.testing.assert_allclose(losses[0] - losses[1], 0.5 * np.mean(cross), rtol=1e-5)


def test_only_matched_positions_have_a_gradient():
    states, twin, inputs = (jnp.array(normal(90 + i, 2, 4, 6, 5)) for i in range(3))
    guide = Tiled(layers=(0, 2), weight=2.0, vocab_weight=0.5)
    grads = jax.grad(lambda *x: loss(guide, x[0], x[1], 0.1, x[2])[0], argnums=(0, 2))(states, twin, inputs[0])
    image = np.asarray(batch_of(PAIR, HINGE).image_mask)
    np.testing.assert_array_equal(np.any(grads[0], axis=-1), np.broadcast_to(image, (2, *image.shape)))
    np.testing.assert_array_equal(np.any(grads[1], axis=-1), image)


@pytest.mark.parametrize("layout", WORDS)
def test_the_teacher_reads_the_twin(layout):
    batch, expected = batch_of(PAIR, HINGE), np.zeros((4, 6), int)
    expected[PAIR, 1:4] = WORDS[layout]
    np.testing.assert_array_equal(Tiled(layout=layout).teacher(batch).tokens, expected)


@pytest.mark.parametrize(("field", "value"), [("decay", "never"), ("layout", "torn")])
def test_a_bad_choice_is_refused(field, value):
    with pytest.raises(ValueError, match=rf"guide.{field}: '{value}'"):
        Tiled(**{field: value})


@pytest.mark.parametrize("guide", [Tiled(layers=(0, 2), vocab_weight=0.5), Instruction(layers=(0, 2))])
def test_zero_vectors_have_finite_gradients(guide):
    states, twin = (jnp.array(normal(70 + i, 2, 4, 6, 5)) for i in range(2))
    for arrays in ((0 * states, twin), (states, 0 * twin), (0 * states, 0 * twin)):
        value, grads = jax.value_and_grad(lambda *x: loss(guide, *x, 0.0)[0], argnums=(0, 1))(*arrays)
        assert np.isfinite(value)
        assert all(np.all(np.isfinite(g)) for g in grads)
