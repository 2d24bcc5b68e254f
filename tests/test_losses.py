"""The losses against float64 NumPy written from their formulas, their masks, and where their gradients go."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tga_jax import losses
from tga_jax.losses import GuideConfig

DECAYS = {"constant": lambda s: 1.0, "linear": lambda s: 1 - s, "quadratic": lambda s: (1 - s) ** 2}
FORMS = {"exp": np.exp, "softplus": lambda x: np.log1p(np.exp(x)), "linear": lambda x: x}


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cos(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


# --- language modelling -----------------------------------------------------------------------------------------------


def lm_reference(logits: np.ndarray, tokens: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    found, hits = [], []
    for row in range(len(tokens)):
        for t in range(1, tokens.shape[1]):
            if targets[row, t]:
                p = softmax(logits[row, t - 1].astype(np.float64))
                found.append(-np.log(p[tokens[row, t]]))
                hits.append(np.argmax(p) == tokens[row, t])
    return float(np.mean(found)), float(np.mean(hits))


def lm_loss(logits, tokens, targets):
    """Position t predicts token t + 1."""
    return losses.lm_loss(jnp.asarray(logits)[:, :-1], jnp.asarray(tokens)[:, 1:], jnp.asarray(targets)[:, 1:])


def test_lm_loss_against_float64():
    rng = np.random.default_rng(0)
    logits, tokens = 3 * normal(1, 3, 7, 11), rng.integers(0, 11, (3, 7), dtype=np.int32)
    targets = rng.random((3, 7)) < 0.5
    tokens[0, 1:] = np.argmax(logits[0, :-1], -1)  # some hits
    loss, metrics = lm_loss(logits, tokens, targets)
    expected, accuracy = lm_reference(logits, tokens, targets)
    assert accuracy > 0
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy"], accuracy, rtol=1e-6)


def test_lm_loss_literal():
    """Uniform logits cost log V a target, however many targets there are; position 0 predicts token 1."""
    tokens, targets = np.array([[0, 1, 2, 3]]), np.array([[0, 0, 1, 1]], bool)
    loss, _ = lm_loss(jnp.zeros((1, 4, 4)), tokens, targets)
    np.testing.assert_allclose(loss, np.log(4), rtol=1e-6)
    sure = 100.0 * jax.nn.one_hot(jnp.array([[3, 2, 3, 0]]), 4)  # right only about the targets
    loss, metrics = lm_loss(sure, tokens, targets)
    assert float(loss) == 0.0
    assert float(metrics["accuracy"]) == 1.0


def test_lm_loss_without_target_is_zero_with_zero_gradient():
    tokens, targets = jnp.zeros((2, 3), jnp.int32), jnp.zeros((2, 3), bool)
    value, grad = jax.value_and_grad(lambda x: lm_loss(x, tokens, targets)[0])(jnp.array(normal(2, 2, 3, 4)))
    assert float(value) == 0.0
    assert not np.any(grad)


def test_lm_loss_of_half_precision_logits_is_taken_in_float32():
    logits = jnp.array(normal(3, 2, 5, 7)).astype(jnp.bfloat16)
    tokens, targets = np.ones((2, 5), np.int32), np.ones((2, 5), bool)
    loss, _ = lm_loss(logits, tokens, targets)
    assert loss.dtype == jnp.float32
    expected, _ = lm_reference(np.asarray(logits.astype(jnp.float32)), tokens, targets)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


# --- contrastive ------------------------------------------------------------------------------------------------------


def contrastive_reference(images, texts, scale, same) -> float:
    logits = scale * images.astype(np.float64) @ texts.astype(np.float64).T
    total, count = 0.0, len(images)
    for i in range(count):
        positives = np.flatnonzero(same[i])
        for j in positives:
            total -= np.log(softmax(logits[i])[j]) / len(positives)
            total -= np.log(softmax(logits[:, i])[j]) / len(positives)
    return total / count / 2


@pytest.mark.parametrize("groups", [[0, 1, 2, 3, 4], [0, 1, 0, 2, 1], [0, 0, 0, 0, 0]])
def test_contrastive_loss_against_float64(groups):
    images, texts = normal(4, 5, 6), normal(5, 5, 6)
    images, texts = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (images, texts))
    same = np.equal.outer(groups, groups)
    loss, metrics = losses.contrastive_loss(jnp.array(images), jnp.array(texts), jnp.array(7.0), jnp.array(same))
    np.testing.assert_allclose(loss, contrastive_reference(images, texts, 7.0, same), rtol=1e-6)
    best = np.argmax(images @ texts.T, -1)
    np.testing.assert_allclose(metrics["retrieval_accuracy"], np.mean(same[np.arange(5), best]), rtol=1e-6)


def test_contrastive_loss_of_repeated_captions_does_not_repel():
    """Two pictures with one caption: the best reachable loss is log 2, and it is a minimum."""
    one = jnp.array([[1.0, 0.0], [1.0, 0.0]])
    same = jnp.ones((2, 2), bool)
    value, grad = jax.value_and_grad(lambda x: losses.contrastive_loss(x, one, jnp.array(50.0), same)[0])(one)
    np.testing.assert_allclose(value, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(grad, 0, atol=1e-6)


# --- the guide loss on means ------------------------------------------------------------------------------------------


def guide_reference(config: GuideConfig, image, caption, retrieved, has_pair, has_hinge, s: float) -> float:
    phi, layers = FORMS[config.form], range(len(image))
    pair = [phi(-cos(image[j, b], caption[j, b])) for j in layers for b in np.flatnonzero(has_pair)]
    hinge = [
        phi(cos(retrieved[j, b], caption[j, b]) - cos(image[j, b], caption[j, b]))
        for j in layers
        for b in np.flatnonzero(has_hinge)
    ]
    return config.pair_weight * DECAYS[config.pair_decay](s) * (np.mean(pair) if pair else 0.0) + (
        config.hinge_weight * DECAYS[config.hinge_decay](s) * (np.mean(hinge) if hinge else 0.0)
    )


def guide_inputs(seed: int, layers: int = 3, batch: int = 4, size: int = 6):
    return tuple(jnp.array(normal(seed + i, layers, batch, size)) for i in range(3))


PAIR, HINGE = np.array([1, 0, 1, 1], bool), np.array([1, 0, 0, 1], bool)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("pair_decay", "hinge_decay"), [("linear", "quadratic"), ("constant", "linear")])
@pytest.mark.parametrize(("weights", "layers"), [((0.25, 0.1), (10, 11, 12)), ((2.0, 3.5), (4,))])
def test_guide_loss_against_float64(form, pair_decay, hinge_decay, weights, layers):
    config = GuideConfig(form, layers, *weights, pair_decay, hinge_decay)
    image, caption, retrieved = guide_inputs(10, len(layers))
    for s in (0.0, 0.3, 1.0):
        loss, metrics = losses.guide_loss(config, image, caption, retrieved, PAIR, HINGE, jnp.array(s))
        arrays = (np.asarray(x) for x in (image, caption, retrieved))
        np.testing.assert_allclose(loss, guide_reference(config, *arrays, PAIR, HINGE, s), rtol=2e-6, atol=1e-7)
        mean = np.mean([cos(image[j, b], caption[j, b]) for j in range(len(layers)) for b in (0, 2, 3)])
        np.testing.assert_allclose(metrics["cos_image_caption"], mean, rtol=1e-5, atol=1e-6)


def test_guide_defaults_are_the_published_values():
    """s = 1/2, cosines 1 (image) and 0 (retrieved): 1/2 * 1/4 * e^-1 + 1/4 * 1/10 * e^-1."""
    image = jnp.array([[[2.0, 0.0]]])
    caption, retrieved = jnp.array([[[5.0, 0.0]]]), jnp.array([[[0.0, 3.0]]])
    yes = np.array([True])
    loss, _ = losses.guide_loss(GuideConfig(), image, caption, retrieved, yes, yes, jnp.array(0.5))
    np.testing.assert_allclose(loss, (1 / 8 + 1 / 40) * np.exp(-1), rtol=1e-6)
    assert GuideConfig().layers == tuple(range(10, 19))


def test_guide_loss_ignores_samples_without_the_texts():
    config = GuideConfig(layers=(1, 2, 3))
    image, caption, retrieved = guide_inputs(20)
    whole = losses.guide_loss(config, image, caption, retrieved, PAIR, HINGE, jnp.array(0.2))[0]
    spoiled = image.at[:, 1].set(99.0), caption.at[:, 1].set(-99.0), retrieved.at[:, 1].set(99.0).at[:, 2].set(7.0)
    np.testing.assert_array_equal(losses.guide_loss(config, *spoiled, PAIR, HINGE, jnp.array(0.2))[0], whole)
    kept = np.flatnonzero(PAIR)
    subset = (x[:, kept] for x in (image, caption, retrieved))
    alone = losses.guide_loss(config, *subset, PAIR[kept], HINGE[kept], jnp.array(0.2))[0]
    np.testing.assert_allclose(alone, whole, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_guide_loss_of_an_all_text_batch_is_exactly_zero(form):
    config = GuideConfig(form, layers=(1, 2, 3))
    image, caption, retrieved = guide_inputs(30)
    no = np.zeros(4, bool)

    def loss(image, retrieved):
        return losses.guide_loss(config, image, caption, retrieved, no, no, jnp.array(0.1))[0]

    for i, r in ((image, retrieved), (0 * image, 0 * retrieved)):
        value, grads = jax.value_and_grad(loss, argnums=(0, 1))(i, r)
        assert float(value) == 0.0
        assert all(not np.any(g) for g in grads)


@pytest.mark.parametrize("form", FORMS)
def test_zero_vectors_have_finite_gradients(form):
    config = GuideConfig(form, layers=(1, 2, 3))
    image, caption, retrieved = guide_inputs(40)
    zeros = [(0 * image, caption, retrieved), (image, 0 * caption, retrieved), (image, caption, 0 * retrieved)]
    for inputs in [*zeros, (0 * image, 0 * caption, 0 * retrieved)]:
        function = jax.value_and_grad(
            lambda *x: losses.guide_loss(config, *x, PAIR, HINGE, jnp.array(0.0))[0], argnums=(0, 1, 2)
        )
        value, grads = function(*inputs)
        assert np.isfinite(value)
        assert all(np.all(np.isfinite(g)) for g in grads)
    assert float(losses.cosine(jnp.zeros(3), jnp.ones(3))) == 0.0


@pytest.mark.parametrize("form", FORMS)
def test_guide_gradient_against_finite_differences_and_none_through_the_caption(form):
    config = GuideConfig(form, (1, 2, 3), 0.7, 0.4)
    inputs = guide_inputs(50)
    grads = jax.grad(lambda *x: losses.guide_loss(config, *x, PAIR, HINGE, jnp.array(0.3))[0], argnums=(0, 1, 2))(
        *inputs
    )
    assert not np.any(grads[1])
    assert not np.any(grads[0][:, 1])  # the sample without a pair
    assert not np.any(grads[2][:, 1:3])  # the samples without a hinge
    for which in (0, 2):
        direction = normal(60 + which, *inputs[0].shape)

        def along(t, which=which, direction=direction):
            moved = [np.asarray(x, np.float64) for x in inputs]
            moved[which] = moved[which] + t * direction
            return guide_reference64(config, moved)

        expected = (along(1e-5) - along(-1e-5)) / 2e-5
        np.testing.assert_allclose(np.sum(grads[which] * direction), expected, rtol=1e-4)


def guide_reference64(config: GuideConfig, arrays) -> float:
    return guide_reference(config, *arrays, PAIR, HINGE, 0.3)


def test_stop_gradient_keeps_the_value_and_teaches_nothing():
    image, caption, retrieved = guide_inputs(70)
    config = GuideConfig(layers=(1, 2, 3))
    released = dataclasses.replace(config, stop_gradient=True)

    def loss(config):
        return lambda i, r: losses.guide_loss(config, i, caption, r, PAIR, HINGE, jnp.array(0.4))[0]

    value, grads = jax.value_and_grad(loss(config), argnums=(0, 1))(image, retrieved)
    shown, nothing = jax.value_and_grad(loss(released), argnums=(0, 1))(image, retrieved)
    np.testing.assert_array_equal(value, shown)
    assert all(np.any(g) for g in grads)
    assert all(not np.any(g) for g in nothing)


@hypothesis.settings(max_examples=25)
@hypothesis.given(st.integers(0, 2**31), st.floats(0, 1), st.sampled_from(list(FORMS)), st.floats(0.01, 100))
def test_guide_loss_sees_directions_only(seed, s, form, scale):
    """A cosine does not change with the length of a vector."""
    config = GuideConfig(form, (1,))
    image, caption, retrieved = guide_inputs(seed, 1)
    one = losses.guide_loss(config, image, caption, retrieved, PAIR, HINGE, jnp.array(s))[0]
    other = losses.guide_loss(config, scale * image, caption / scale, retrieved, PAIR, HINGE, jnp.array(s))[0]
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"form": "cube"}, "guide.form: 'cube'"),
        ({"pair_decay": "never"}, "guide.pair_decay: 'never'"),
        ({"hinge_decay": "never"}, "guide.hinge_decay: 'never'"),
        ({"layers": ()}, "guide.layers"),
        ({"layers": (3, -1)}, "guide.layers"),
    ],
)
def test_a_bad_guide_config_is_refused(fields, named):
    with pytest.raises(ValueError, match=named):
        GuideConfig(**fields)


def test_masked_mean():
    x = jnp.array([1.0, 2.0, 6.0])
    assert float(losses.masked_mean(x, jnp.array([True, False, True]))) == 3.5
    assert float(losses.masked_mean(x, jnp.zeros(3, bool))) == 0.0


# --- the guide loss on tokens -----------------------------------------------------------------------------------------


def token_reference(config, states, twin, mask, vocab, has_pair, s: float) -> float:
    states, twin = states.astype(np.float64), twin.astype(np.float64)
    fits, cross = [], []
    for b in np.flatnonzero(has_pair & mask.any(1)):
        places = np.flatnonzero(mask[b])
        for j in range(len(states)):
            error = sum(np.sum((states[j, b, t] - twin[j, b, t]) ** 2) for t in places)
            fits.append(error / sum(np.sum(twin[j, b, t] ** 2) for t in places))
        if vocab is not None:
            logits, words, counts = vocab
            for p in np.flatnonzero(counts[b]):
                cross.append(-np.log(softmax(logits[b, p].astype(np.float64))[words[b, p]]))
    if not fits:
        return 0.0
    fit = np.mean(fits) + (config.vocab_weight * np.mean(cross) if vocab is not None else 0.0)
    return config.pair_weight * DECAYS[config.pair_decay](s) * fit


def token_inputs(seed: int):
    """states and twin [2, 4, 6, 5], mask [4, 6]; of the vocabulary: logits [4, 3, 7], words and counts [4, 3]."""
    states, twin = (jnp.array(normal(seed + i, 2, 4, 6, 5)) for i in range(2))
    rng = np.random.default_rng(seed)
    mask = np.arange(6) < np.array([3, 6, 2, 1])[:, None]
    counts = np.arange(3) < np.array([3, 3, 2, 1])[:, None]
    vocab = jnp.array(normal(seed + 2, 4, 3, 7)), rng.integers(0, 7, (4, 3), dtype=np.int32), counts
    return states, twin, mask, vocab


@pytest.mark.parametrize("form", losses.TOKEN_FORMS)
@pytest.mark.parametrize(("pair_weight", "vocab_weight", "decay"), [(0.25, 0.0, "linear"), (3.0, 0.6, "quadratic")])
def test_token_guide_loss_against_float64(form, pair_weight, vocab_weight, decay):
    config = GuideConfig(form, (0, 2), pair_weight, pair_decay=decay, vocab_weight=vocab_weight)
    states, twin, mask, vocab = token_inputs(80)
    vocab = vocab if vocab_weight else None
    for s in (0.0, 0.6):
        loss, metrics = losses.token_guide_loss(config, states, twin, mask, vocab, PAIR, jnp.array(s))
        as_numpy = jax.tree.map(np.asarray, (states, twin, mask, vocab))
        np.testing.assert_allclose(loss, token_reference(config, *as_numpy, PAIR, s), rtol=2e-6)
    if vocab is not None:
        hits = np.argmax(vocab[0], -1) == vocab[1]
        np.testing.assert_allclose(metrics["guide_words"], hits[PAIR[:, None] & vocab[2]].mean(), rtol=1e-6)


def test_token_guide_loss_masks_and_gradients():
    config = GuideConfig("tiled", (0, 2), 2.0, vocab_weight=0.5)
    states, twin, mask, (logits, words, counts) = token_inputs(90)

    def loss(states, twin, logits, has_pair=PAIR, mask=mask, config=config):
        vocab = (logits, words, counts)
        return losses.token_guide_loss(config, states, twin, mask, vocab, has_pair, jnp.array(0.1))[0]

    value, grads = jax.value_and_grad(loss, argnums=(0, 1, 2))(states, twin, logits)
    matched = PAIR[:, None] & mask
    assert not np.any(grads[1])
    np.testing.assert_array_equal(np.any(grads[0], axis=-1), np.broadcast_to(matched, (2, *mask.shape)))
    np.testing.assert_array_equal(np.any(grads[2], axis=-1), PAIR[:, None] & counts)
    spoiled = jnp.where(matched[..., None], states, 1e3), jnp.where(matched[..., None], twin, -5.0)
    np.testing.assert_array_equal(loss(*spoiled, jnp.where((PAIR[:, None] & counts)[..., None], logits, 9.0)), value)
    # All text, or nothing to match: exactly zero, whatever stands there.
    for nothing in ({"has_pair": np.zeros(4, bool)}, {"mask": np.zeros_like(mask)}):
        for inputs in ((states, twin, logits), (0 * states, 0 * twin, logits)):
            zero, grads = jax.value_and_grad(loss, argnums=(0, 2))(*inputs, **nothing)
            assert float(zero) == 0.0
            assert all(not np.any(g) for g in grads)
    # A twin of zeros stays finite.
    assert all(np.all(np.isfinite(g)) for g in jax.grad(loss, argnums=(0, 2))(0 * states, 0 * twin, logits))
    released = dataclasses.replace(config, stop_gradient=True)
    shown, nothing = jax.value_and_grad(loss, argnums=(0, 1, 2))(states, twin, logits, config=released)
    np.testing.assert_array_equal(shown, value)
    assert all(not np.any(g) for g in nothing)
