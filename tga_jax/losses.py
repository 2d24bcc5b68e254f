"""Language modelling and CLIP's contrastive loss, and what the losses of `guides` are made of.

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
