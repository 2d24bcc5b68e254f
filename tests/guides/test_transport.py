"""The guide by optimal transport against float64 NumPy, brute force over assignments, and its gradients."""

import itertools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guides_support import DECAYS, HINGE, PAIR, batch_of, normal, seen

from tga_jax.guides import Transport
from tga_jax.guides.transport import plan, rarity


def sinkhorn(distance: np.ndarray, temperature: float, iterations: int, masses: np.ndarray | None = None) -> np.ndarray:
    """float64, of one sample without padding, as in Cuturi (2013): diag(u) K diag(v). masses: of the words."""
    kernel = np.exp(-(distance - distance.min()) / temperature)
    p, c = distance.shape
    v, masses = np.ones(c), np.ones(c) if masses is None else masses
    for _ in range(iterations):
        u = (1 / p) / (kernel @ v)
        v = (masses / masses.sum()) / (kernel.T @ u)
    return u[:, None] * kernel * v


@pytest.mark.parametrize("alike", [True, False])
@pytest.mark.parametrize("temperature", [0.05, 0.7])
def test_the_plan_against_float64_with_padding(temperature, alike):
    distance = np.abs(normal(3, 3, 7, 5)).astype(np.float32)
    tokens, words = np.ones((3, 7), bool), np.ones((3, 5), np.float32)
    if not alike:
        words *= np.random.default_rng(4).uniform(0.02, 5, (3, 5)).astype(np.float32)
    tokens[1, 4:], words[1, [0, 3]], words[2] = False, 0, 0
    found = np.asarray(plan(jnp.array(distance), jnp.array(tokens), jnp.array(words), temperature, 40))
    for b in range(2):
        inner = np.ix_(tokens[b], words[b] > 0)
        expected = sinkhorn(distance[b][inner].astype(np.float64), temperature, 40, words[b][words[b] > 0])
        np.testing.assert_allclose(found[b][inner], expected, rtol=2e-4, atol=1e-7)
        np.testing.assert_allclose(found[b].sum(0), words[b] / words[b].sum(), rtol=1e-5)
    assert not found[1][~tokens[1]].any()
    assert not found[1][:, words[1] == 0].any()
    assert not found[2].any()


def test_rarity_counts_captions_and_not_words():
    """Of three captions and a row without one: "a b b", "a c", "a"."""
    captions = np.array([[1, 2, 2], [1, 3, 0], [1, 0, 0], [0, 0, 0]], np.int32)
    there = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]], bool)
    among = jnp.where(there, captions, -1)
    expected = np.log(4 / np.array([[3, 1, 1], [3, 1, 1], [3, 1, 1], [1, 1, 1]]))
    np.testing.assert_allclose(np.asarray(rarity(jnp.array(captions), among))[there], expected[there], rtol=1e-6)
    alone = rarity(jnp.array(captions[:1]), among[:1])
    np.testing.assert_allclose(alone, np.full((1, 3), np.log(2)), rtol=1e-6)  # all alike


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.integers(0, 2**31))
def test_masses_and_the_least_cost(seed):
    """At a low temperature the plan of as many tokens as words is the best of all assignments."""
    distance = np.random.default_rng(seed).random((4, 4))
    here = jnp.ones((1, 4), bool)
    found = np.asarray(plan(jnp.array(distance[None], jnp.float32), here, here, 0.02, 2000))[0]
    np.testing.assert_allclose(found.sum(0), 0.25, atol=1e-4)
    np.testing.assert_allclose(found.sum(1), 0.25, atol=0.02)
    costs = [sum(distance[p, c] for p, c in enumerate(order)) / 4 for order in itertools.permutations(range(4))]
    assert min(costs) - 0.01 <= (found * distance).sum() <= min(costs) + 0.06


def reference(guide, states, words, s: float) -> float:
    """The docstring's equation on `batch_of(PAIR, HINGE)`: image tokens at 1 to 3, the caption's words at 1 and 2."""
    errors = []
    for j in range(len(states)):
        for b in np.flatnonzero(PAIR):
            h, g = states[j, b, 1:4], words[j, b][np.asarray(batch_of(PAIR, HINGE).caption_mask)[b]]
            distance = ((h[:, None] - g) ** 2).sum(-1) / (g**2).sum(-1).mean()
            # Of four captions 4 say the first word, and 3 the second.
            masses = np.log(5 / np.array([4, 3])) if guide.masses == "rarity" else np.ones(2)
            errors.append((sinkhorn(distance, guide.temperature, guide.iterations, masses) * distance).sum())
    return guide.weight * DECAYS[guide.decay](s) * np.mean(errors)


@pytest.fixture(name="inputs")
def fixture_inputs():
    length = batch_of(PAIR, HINGE).caption_tokens.shape[1]
    return jnp.array(normal(41, 2, 4, 6, 5)), jnp.array(normal(42, 2, 4, length, 5))


@pytest.mark.parametrize("guide", [Transport(layers=(0, 2), weight=0.3, decay="linear", temperature=0.4), Transport(
    layers=(0, 2), weight=2.0, decay="quadratic", temperature=1.5, iterations=7), Transport(
    layers=(0, 2), masses="rarity", temperature=0.5)])  # fmt: skip
def test_against_float64(guide, inputs):
    batch = batch_of(PAIR, HINGE)
    batch = batch._replace(caption_tokens=batch.caption_tokens.at[1, 2].set(7))
    for s in (0.0, 0.6):
        value, metrics = guide.loss(seen(guide, batch, *inputs, s))
        expected = reference(guide, *(np.asarray(x, np.float64) for x in inputs), s)
        np.testing.assert_allclose(value, expected, rtol=2e-4)
        assert 1 / 2 <= metrics["guide_sharpness"] <= 1


def test_only_image_tokens_have_a_gradient_and_pi_has_none(inputs):
    guide, batch = Transport(layers=(0, 2), temperature=0.3), batch_of(PAIR, HINGE)
    grads = jax.grad(lambda h: guide.loss(seen(guide, batch, h, inputs[1], 0.0))[0])(inputs[0])
    image = np.asarray(batch.image_mask) & np.asarray(PAIR)[:, None]
    np.testing.assert_array_equal(np.any(grads, axis=-1), np.broadcast_to(image, (2, *image.shape)))
    # With pi held, d L / d h_p = 2 sum_c pi_pc (h_p - g_c) / mean |g|^2, in the mean over layers and samples.
    j, b = 1, int(np.flatnonzero(PAIR)[0])
    g = np.asarray(inputs[1], np.float64)[j, b][np.asarray(batch.caption_mask)[b]]
    h = np.asarray(inputs[0], np.float64)[j, b, 1:4]
    size = (g**2).sum(-1).mean()
    pi = sinkhorn(((h[:, None] - g) ** 2).sum(-1) / size, guide.temperature, guide.iterations)
    expected = 2 * (pi[..., None] * (h[:, None] - g)).sum(1) / size / (2 * PAIR.sum())
    np.testing.assert_allclose(grads[j, b, 1:4], expected, rtol=1e-3, atol=1e-6)


def test_the_unit_is_the_words_own(inputs):
    guide, batch = Transport(layers=(0, 2), temperature=0.4), batch_of(PAIR, HINGE)
    value = guide.loss(seen(guide, batch, *inputs, 0.0))[0]
    small = guide.loss(seen(guide, batch, *(0.01 * x for x in inputs), 0.0))[0]
    np.testing.assert_allclose(small, value, rtol=1e-4)


def test_captions_of_one_word_and_of_none(inputs):
    """All of the tokens say the one word; without a word there is no term, and no gradient that is not a number."""
    guide, batch = Transport(layers=(0, 2), temperature=0.4), batch_of(PAIR, HINGE)
    one, none = np.flatnonzero(PAIR)[:2]
    mask = np.asarray(batch.caption_mask).copy()
    mask[one, 2], mask[none] = False, False
    batch = batch._replace(caption_mask=jnp.asarray(mask))
    kept = PAIR & (np.arange(4) != none)
    value, grads = jax.value_and_grad(lambda h: guide.loss(seen(guide, batch, h, inputs[1], 0.0))[0])(inputs[0])
    tokens, words = (np.asarray(x, np.float64) for x in inputs)
    errors = []
    for j, b in itertools.product(range(2), np.flatnonzero(kept)):
        h, g = tokens[j, b, 1:4], words[j, b][mask[b]]
        distance = ((h[:, None] - g) ** 2).sum(-1) / (g**2).sum(-1).mean()
        errors.append((sinkhorn(distance, guide.temperature, guide.iterations) * distance).sum())
    np.testing.assert_allclose(value, np.mean(errors), rtol=2e-4)
    assert np.isfinite(grads).all()
    assert not grads[:, none].any()


def test_the_order_of_words_and_of_tokens_does_not_matter(inputs):
    guide, batch = Transport(layers=(0, 2)), batch_of(PAIR, HINGE)
    value = guide.loss(seen(guide, batch, *inputs, 0.0))[0]
    mask = np.asarray(batch.caption_mask)
    places = np.flatnonzero(mask.all(0))
    words = inputs[1].at[:, :, places].set(inputs[1][:, :, places[::-1]])
    tokens = inputs[0].at[:, :, 1:4].set(inputs[0][:, :, [3, 1, 2]])
    np.testing.assert_allclose(guide.loss(seen(guide, batch, tokens, words, 0.0))[0], value, rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.0}, r"guide\.temperature: 0.0"),
        ({"iterations": 0}, r"guide\.iterations: 0"),
        ({"masses": "tfidf"}, r"guide\.masses: 'tfidf'"),
    ],
)
def test_bad_fields(fields, message):
    with pytest.raises(ValueError, match=message):
        Transport(**fields)
