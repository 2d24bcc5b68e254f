"""The losses against float64 NumPy written from their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tga_jax import losses


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


def test_masked_mean():
    x = jnp.array([1.0, 2.0, 6.0])
    assert float(losses.masked_mean(x, jnp.array([True, False, True]))) == 3.5
    assert float(losses.masked_mean(x, jnp.zeros(3, bool))) == 0.0
    assert float(losses.masked_mean(x, jnp.array([True, False, True]), jnp.array(7))) == 1.0
    assert float(losses.masked_mean(x, jnp.zeros(3, bool), jnp.array(0))) == 0.0


def test_cosine():
    a, b = normal(6, 4, 5), normal(7, 4, 5)
    np.testing.assert_allclose(losses.cosine(a, b), [cos(*row) for row in zip(a, b, strict=True)], rtol=1e-5)
    assert float(losses.cosine(jnp.zeros(3), jnp.ones(3))) == 0.0
    assert np.all(np.isfinite(jax.grad(losses.cosine)(jnp.zeros(3), jnp.ones(3))))


# --- preferences ------------------------------------------------------------------------------------------------------


def dpo_reference(policy: np.ndarray, reference: np.ndarray, beta: float, mask: np.ndarray) -> dict[str, float]:
    """float64, pair by pair, from the paper's equation 7."""
    pi, ref = policy.astype(np.float64)[mask], reference.astype(np.float64)[mask]
    chosen, rejected = (beta * (pi[:, i] - ref[:, i]) for i in (0, 1))
    return {
        "loss": np.mean([np.log1p(np.exp(-(c - r))) for c, r in zip(chosen, rejected, strict=True)]),
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/accuracies": np.mean(chosen > rejected),
        "rewards/margins": (chosen - rejected).mean(),
        "logps/chosen": pi[:, 0].mean(),
        "logps/rejected": pi[:, 1].mean(),
    }


def test_dpo_loss_and_its_gradient_against_float64():
    policy, reference, mask = 9 * normal(5, 6, 2) - 20, 9 * normal(6, 6, 2) - 20, np.array([1, 1, 0, 1, 1, 1], bool)

    def loss(policy):
        return losses.dpo_loss(policy, jnp.asarray(reference), 0.3, jnp.asarray(mask))

    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(policy))
    expected = dpo_reference(policy, reference, 0.3, mask)
    assert 0 < expected["rewards/accuracies"] < 1
    for name, wanted in expected.items():
        np.testing.assert_allclose({"loss": value, **metrics}[name], wanted, rtol=1e-5, err_msg=name)
    step = 1e-4
    for b, i in np.ndindex(policy.shape):
        moved = np.zeros(policy.shape)
        moved[b, i] = step
        up, down = (dpo_reference(policy + s * moved, reference, 0.3, mask)["loss"] for s in (1, -1))
        np.testing.assert_allclose(grads[b, i], (up - down) / (2 * step), rtol=1e-4, atol=1e-7)


def test_dpo_loss_where_nothing_has_moved_and_where_nothing_counts():
    same = jnp.asarray(normal(7, 3, 2))
    loss, metrics = losses.dpo_loss(same, same, 0.1, jnp.ones(3, bool))
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    assert float(metrics["rewards/margins"]) == float(metrics["rewards/accuracies"]) == 0
    assert float(losses.dpo_loss(same, 2 * same, 0.1, jnp.zeros(3, bool))[0]) == 0


def test_sequence_log_probs_against_float64():
    logits, labels = 3 * normal(8, 3, 5, 7), np.random.default_rng(9).integers(0, 7, (3, 5))
    mask = np.random.default_rng(10).random((3, 5)) < 0.6
    found = losses.sequence_log_probs(jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(mask))
    p = softmax(logits.astype(np.float64))
    expected = [sum(np.log(p[b, k, labels[b, k]]) for k in range(5) if mask[b, k]) for b in range(3)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_guards_against_zero_do_not_act_on_what_is_small():
    assert float(losses.masked_mean(jnp.array([3.0, 9.0]), jnp.array([True, False]))) == 3.0
    a, b = normal(11, 4, 5), normal(12, 4, 5)
    np.testing.assert_allclose(losses.cosine(1e-3 * a, 1e-3 * b), losses.cosine(a, b), rtol=1e-5)
    np.testing.assert_allclose(losses.cosine(a, b[0]), [cos(row, b[0]) for row in a], rtol=1e-5)
    assert losses.cosine(jnp.asarray(a, jnp.bfloat16), jnp.asarray(b, jnp.bfloat16)).dtype == jnp.float32


_X, _LABELS, _YES = jnp.ones((2, 3, 4)), jnp.zeros((2, 3), jnp.int32), jnp.ones((2, 3), bool)


@pytest.mark.parametrize(
    "call",
    [
        lambda: losses.masked_mean(_X[0], _YES[0, :1]),
        lambda: losses.cosine(_X, _X[..., :1]),
        lambda: losses.sequence_log_probs(_X, _LABELS, _YES[:, :1]),
        lambda: losses.lm_loss(_X, _LABELS, _YES[:1]),
        lambda: losses.dpo_loss(_X[0, :, :2], _X[0, :1, :2], 0.1, _YES[0]),
        lambda: losses.contrastive_loss(_X, _X, jnp.ones(()), _YES[:, :2]),
        lambda: losses.contrastive_loss(_X[0], _X[0, :1], jnp.ones(()), jnp.ones((3, 3), bool)),
        lambda: losses.contrastive_loss(_X[0], _X[0], jnp.ones(()), jnp.ones((3, 1), bool)),
    ],
)
def test_shapes_that_would_be_broadcast_are_refused(call):
    with pytest.raises(AssertionError):
        call()
