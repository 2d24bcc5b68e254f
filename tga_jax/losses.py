"""Language modelling, preference and CLIP's contrastive loss, and what the losses of `guides` are made of.

Arrays in, scalars and metrics out. Dimension letters: B batch, K labels, V vocabulary, E shared embedding.
"""

import chex
import jax
import jax.numpy as jnp

Array = jax.Array


def masked_mean(x: Array, mask: Array, count: Array | None = None) -> Array:
    """Mean of x where mask; exactly 0 where the mask is empty.

    count: to divide by instead of the mask's, if x is a part of what the mean is over.
    """
    chex.assert_equal_shape([x, mask])
    mask = mask.astype(x.dtype)
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask) if count is None else count, 1.0)


def cosine(a: Array, b: Array, eps: float = 1e-12) -> Array:
    """cos(a, b) over the last axis in float32; 0, with finite gradients, where either vector is zero."""
    chex.assert_equal_shape_suffix([a, b], 1)
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    norms = jnp.maximum(jnp.sum(a * a, -1), eps) * jnp.maximum(jnp.sum(b * b, -1), eps)
    return jnp.sum(a * b, -1) * jax.lax.rsqrt(norms)


def sequence_log_probs(logits: Array, labels: Array, mask: Array) -> Array:
    """float32 [B]: log pi of each row's labels, summed over those that count; arguments as of `lm_loss`."""
    chex.assert_shape([labels, mask], logits.shape[:2])
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    return jnp.sum(jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0] * mask, axis=-1)


def dpo_loss(
    policy: Array, reference: Array, beta: float, mask: Array, count: Array | None = None
) -> tuple[Array, dict[str, Array]]:
    """Direct preference optimisation (Rafailov et al., 2023, equation 7), in the mean over the pairs that count:

        L = -log sigmoid(beta (log pi(y_w | x) / pi_ref(y_w | x) - log pi(y_l | x) / pi_ref(y_l | x)))

    policy, reference: float32 [B, 2], log pi and log pi_ref of the chosen answer y_w and the rejected one y_l; mask:
    bool [B]; count: as in `masked_mean`. The metrics are TRL's, the rewards in units of beta.
    """
    chex.assert_shape([policy, reference], (len(mask), 2))
    rewards = beta * (policy - reference)
    margins = rewards[:, 0] - rewards[:, 1]
    metrics = {
        "rewards/chosen": rewards[:, 0],
        "rewards/rejected": rewards[:, 1],
        "rewards/accuracies": (margins > 0).astype(jnp.float32),
        "rewards/margins": margins,
        "logps/chosen": policy[:, 0],
        "logps/rejected": policy[:, 1],
    }
    means = {name: masked_mean(x, mask, count) for name, x in metrics.items()}
    return masked_mean(-jax.nn.log_sigmoid(margins), mask, count), means


def lm_loss(logits: Array, labels: Array, mask: Array, count: Array | None = None) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy in nats, mean over the labels that count.

    logits [B, K, V]; labels int32 [B, K]; mask bool [B, K]: those that count; count: as in `masked_mean`.
    """
    chex.assert_shape([labels, mask], logits.shape[:2])
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    losses = -jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
    accuracy = masked_mean((jnp.argmax(log_probs, -1) == labels).astype(jnp.float32), mask, count)
    return masked_mean(losses, mask, count), {"accuracy": accuracy}


def contrastive_loss(images: Array, texts: Array, scale: Array, same: Array) -> tuple[Array, dict[str, Array]]:
    """CLIP's symmetric cross-entropy between unit embeddings images [B, E] and texts [B, E].

    same: bool [B, B], True where sample i's text says the same as sample j's (at least the diagonal): such pairs are
    positives too, each with an equal share, so that repeated captions in a batch do not repel their own pictures.
    """
    chex.assert_rank(images, 2)
    chex.assert_equal_shape([images, texts])
    chex.assert_shape(same, (len(images), len(images)))
    logits = scale * images @ texts.T
    shares = same / jnp.sum(same, axis=-1, keepdims=True)
    by_image = -jnp.sum(shares * jax.nn.log_softmax(logits, axis=-1), axis=-1)
    by_text = -jnp.sum(shares * jax.nn.log_softmax(logits.T, axis=-1), axis=-1)
    hits = jnp.take_along_axis(same, jnp.argmax(logits, axis=-1)[:, None], axis=-1)
    return jnp.mean(by_image + by_text) / 2, {"retrieval_accuracy": jnp.mean(hits)}
