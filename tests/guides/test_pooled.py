"""The paper's guide and the released code's against float64 NumPy written from their equations, and their gradients."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from guides_support import DECAYS, HINGE, PAIR, batch_of, cos, normal, seen

from tga_jax.guides import Guide, Paper, Released

GUIDES = [Paper(layers=(1, 2, 3)), Released(layers=(1, 2, 3))]
IDS = ["paper", "released"]


def reference(guide, image, caption, retrieved, s: float, pair=PAIR, hinge=HINGE) -> float:
    """The equation of the guide's docstring. image, caption, retrieved: I_j, C_j, R_j [J, B, D]."""

    def mean(values):
        return np.mean(values) if values else 0.0

    of_layers = []
    for j in range(len(image)):
        near = {b: cos(image[j, b], caption[j, b]) for b in np.flatnonzero(pair)}
        far = {b: cos(retrieved[j, b], caption[j, b]) for b in np.flatnonzero(hinge & pair)}
        if isinstance(guide, Paper):
            pairs, hinges = [-c for c in near.values()], [np.log(1 + np.exp(-(near[b] - r))) for b, r in far.items()]
        else:
            pairs, hinges = [np.exp(-c) for c in near.values()], [np.exp(r - near[b]) for b, r in far.items()]
        of_layers.append(
            guide.pair_weight * DECAYS[guide.pair_decay](s) * mean(pairs)
            + guide.hinge_weight * DECAYS[guide.hinge_decay](s) * mean(hinges)
        )
    return np.sum(of_layers) if getattr(guide, "reduce", "mean") == "sum" else np.mean(of_layers)


def inputs(seed: int, layers: int = 3, batch: int = 4, size: int = 6):
    return tuple(jnp.array(normal(seed + i, layers, batch, size)) for i in range(3))


def loss(guide: Guide, image, caption, retrieved, s: float, pair=PAIR, hinge=HINGE):
    student, teacher = jnp.stack([image, retrieved], axis=2), caption[:, :, None]
    return guide.loss(seen(guide, batch_of(pair, hinge), student, teacher, s))


@pytest.mark.parametrize(
    "guide",
    [
        *GUIDES,
        Paper(layers=(4,), pair_weight=2.0, hinge_weight=3.5, pair_decay="linear", hinge_decay="quadratic"),
        Paper(layers=(0, 4), hinge_weight=0.3, hinge_decay="linear", reduce="mean"),
        Released(layers=(4, 7), pair_weight=2.0, hinge_weight=3.5, pair_decay="constant", hinge_decay="linear"),
    ],
)
def test_against_float64(guide):
    arrays = inputs(10, len(guide.layers))
    for s in (0.0, 0.3, 1.0):
        value, metrics = loss(guide, *arrays, s)
        np.testing.assert_allclose(value, reference(guide, *map(np.asarray, arrays), s), rtol=2e-6, atol=1e-7)
        image, caption = arrays[:2]
        mean = np.mean([cos(image[j, b], caption[j, b]) for j in range(len(image)) for b in (0, 2, 3)])
        np.testing.assert_allclose(metrics["cos_image_caption"], mean, rtol=1e-5, atol=1e-6)


def test_the_paper_sums_over_all_layers_with_weights_1_and_no_decay():
    """Two layers, cosines 1 (image) and 0 (retrieved): 2 * (-1 + log(1 + e^-1)), at any s."""
    arrays = [jnp.array([[x]] * 2) for x in ([2.0, 0.0], [5.0, 0.0], [0.0, 3.0])]
    guide, yes = Paper().on(2), np.array([True])
    assert guide.layers == (1, 2)
    for s in (0.0, 0.9):
        value, _ = loss(guide, *arrays, s, yes, yes)
        np.testing.assert_allclose(value, 2 * (-1 + np.log(1 + np.exp(-1))), rtol=1e-6)


def test_the_defaults_of_the_released_code():
    """s = 1/2, cosines 1 (image) and 0 (retrieved): 1/2 * 1/4 * e^-1 + 1/4 * 1/10 * e^-1."""
    arrays = [jnp.array([[x]] * 9) for x in ([2.0, 0.0], [5.0, 0.0], [0.0, 3.0])]
    yes = np.array([True])
    value, _ = loss(Released(), *arrays, 0.5, yes, yes)
    np.testing.assert_allclose(value, (1 / 8 + 1 / 40) * np.exp(-1), rtol=1e-6)
    assert Released().on(32).layers == tuple(range(10, 19))


def test_the_short_image_span_leaves_out_the_last_image_token():
    batch = batch_of(PAIR, HINGE)
    np.testing.assert_array_equal(Released().student(batch).segments[:, 0], batch.image_mask)
    short = Released(short_image_span=True).student(batch).segments
    np.testing.assert_array_equal(np.flatnonzero(short[0, 0]), [1, 2])
    np.testing.assert_array_equal(short[1, 0], np.zeros(6, bool))
    np.testing.assert_array_equal(short[:, 1], batch.retrieved_mask)
    images = np.array([[0, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]], bool)
    found = Released(short_image_span=True).student(batch._replace(image_mask=images, retrieved_mask=~images)).segments
    wanted = [[0, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(found[:, 0], np.array(wanted, bool))


@pytest.mark.parametrize("guide", GUIDES, ids=IDS)
def test_samples_without_the_texts_are_ignored(guide):
    image, caption, retrieved = inputs(20)
    whole = loss(guide, image, caption, retrieved, 0.2)[0]
    spoiled = image.at[:, 1].set(99.0), caption.at[:, 1].set(-99.0), retrieved.at[:, 1].set(99.0).at[:, 2].set(7.0)
    np.testing.assert_array_equal(loss(guide, *spoiled, 0.2)[0], whole)
    kept = np.flatnonzero(PAIR)
    subset = (x[:, kept] for x in (image, caption, retrieved))
    np.testing.assert_allclose(loss(guide, *subset, 0.2, PAIR[kept], HINGE[kept])[0], whole, rtol=1e-6)


@pytest.mark.parametrize("guide", GUIDES, ids=IDS)
def test_an_all_text_batch_is_exactly_zero(guide):
    image, caption, retrieved = inputs(30)
    no = np.zeros(4, bool)
    for i, r in ((image, retrieved), (0 * image, 0 * retrieved)):
        value, grads = jax.value_and_grad(lambda i, r: loss(guide, i, caption, r, 0.1, no, no)[0], argnums=(0, 1))(i, r)
        assert float(value) == 0.0
        assert all(not np.any(g) for g in grads)


@pytest.mark.parametrize("guide", GUIDES, ids=IDS)
def test_zero_vectors_have_finite_gradients(guide):
    image, caption, retrieved = inputs(40)
    zeros = [(0 * image, caption, retrieved), (image, 0 * caption, retrieved), (image, caption, 0 * retrieved)]
    for arrays in [*zeros, (0 * image, 0 * caption, 0 * retrieved)]:
        value, grads = jax.value_and_grad(lambda *x: loss(guide, *x, 0.0)[0], argnums=(0, 1, 2))(*arrays)
        assert np.isfinite(value)
        assert all(np.all(np.isfinite(g)) for g in grads)


@pytest.mark.parametrize("guide", GUIDES, ids=IDS)
def test_the_gradient_against_finite_differences(guide):
    guide = dataclasses.replace(guide, pair_weight=0.7, hinge_weight=0.4)
    arrays = inputs(50)
    grads = jax.grad(lambda *x: loss(guide, *x, 0.3)[0], argnums=(0, 1, 2))(*arrays)
    assert not np.any(grads[0][:, 1])  # the sample without a pair
    assert not np.any(grads[2][:, 1:3])  # the samples without a hinge
    for which in (0, 1, 2):
        direction = normal(60 + which, *arrays[0].shape)

        def along(t, which=which, direction=direction):
            moved = [np.asarray(x, np.float64) for x in arrays]
            moved[which] = moved[which] + t * direction
            return reference(guide, *moved, 0.3)

        expected = (along(1e-5) - along(-1e-5)) / 2e-5
        np.testing.assert_allclose(np.sum(grads[which] * direction), expected, rtol=1e-4)


def test_stop_gradient_keeps_the_value_and_teaches_nothing():
    image, caption, retrieved = inputs(70)

    def found(guide):
        return jax.value_and_grad(lambda i, r: loss(guide, i, caption, r, 0.4)[0], argnums=(0, 1))(image, retrieved)

    value, grads = found(Released(layers=(1, 2, 3)))
    shown, nothing = found(Released(layers=(1, 2, 3), stop_gradient=True))
    np.testing.assert_array_equal(value, shown)
    assert all(np.any(g) for g in grads)
    assert all(not np.any(g) for g in nothing)


@hypothesis.settings(max_examples=25)
@hypothesis.given(st.integers(0, 2**31), st.floats(0, 1), st.sampled_from(GUIDES), st.floats(0.01, 100))
def test_only_directions_count(seed, s, guide, scale):
    """A cosine does not change with the length of a vector."""
    image, caption, retrieved = inputs(seed)
    one = loss(guide, image, caption, retrieved, s)[0]
    other = loss(guide, scale * image, caption / scale, retrieved, s)[0]
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "fields", "named"),
    [
        (Paper, {"pair_decay": "never"}, "guide.pair_decay: 'never', expected one of constant, linear, quadratic"),
        (Released, {"hinge_decay": "never"}, "guide.hinge_decay: 'never'"),
        (Paper, {"reduce": "max"}, "guide.reduce: 'max', expected one of sum, mean"),
        (Paper, {"layers": (3, -1)}, "guide.layers"),
    ],
)
def test_a_bad_value_is_refused(kind, fields, named):
    with pytest.raises(ValueError, match=named):
        kind(**fields)


def test_layers_above_the_decoder_are_refused():
    with pytest.raises(ValueError, match=r"guide.layers: \(1, 5\), expected at most 4"):
        Paper(layers=(1, 5)).on(4)
