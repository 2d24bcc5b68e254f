"""The losses: language modelling, CLIP's contrastive loss, and the guide loss of Text-Guided Alignment.

Arrays in, scalars and metrics out. Dimension letters: B batch, T positions, V vocabulary, E shared embedding,
J guide layers, P image tokens, D hidden.
"""

import dataclasses

import jax
import jax.numpy as jnp

Array = jax.Array

DECAYS = {
    "constant": lambda s: jnp.ones_like(s),
    "linear": lambda s: 1.0 - s,
    "quadratic": lambda s: (1.0 - s) ** 2,
}
# What a difference of cosines costs: the published exponential, the smooth hinge, or the difference itself.
POOLED_FORMS = {"exp": jnp.exp, "softplus": jax.nn.softplus, "linear": lambda x: x}
TOKEN_FORMS = ("tiled", "instruction")


@dataclasses.dataclass(frozen=True)
class GuideConfig:
    """Where and how image tokens are pulled to the caption; the defaults are the published values for a 7B model.

    With I_j, C_j, R_j the mean hidden states of layer j over the image's, the caption's and the retrieved text's
    tokens, s = step / total steps, and phi the form:

        L_pair  = pair_weight  * pair_decay(s)  * phi(-cos(I_j, C_j))
        L_hinge = hinge_weight * hinge_decay(s) * phi(cos(R_j, C_j) - cos(I_j, C_j))

    averaged over the layers and over the samples that have the texts. No gradient flows through C_j.

    Two forms act on single positions instead of means. The sequence's text twin has the caption's words, repeated, in
    the picture's place: image token p of P stands where word (p - P) mod C does (`llava.text_twin`). With h_jt the
    sequence's and g_jt the twin's state at layer j and position t, and M the matched positions:

        L_pair = pair_weight * pair_decay(s) * (sum_M |h_jt - g_jt|^2 / sum_M |g_jt|^2 + vocab_weight * xent(h_0p, c_p))

    where xent reads the image tokens' input embeddings through the decoder's and c_p is the twin's word; no hinge. No
    gradient flows through g.

    "tiled": M are the image tokens. Why: the decoder reads refusal from the keys and values of words in its first
    blocks. Pooled means can agree while no single token, nor its norm, looks like a word; here each token must.
    "instruction": M are the positions from the picture to the answer. There the twin's states already hold its
    refusal, so on harmful pictures this is distillation and not transfer; it is here to be told apart from "tiled".
    """

    form: str = "exp"
    layers: tuple[int, ...] = tuple(range(10, 19))  # 0: input embeddings, j: output of block j
    pair_weight: float = 0.25
    hinge_weight: float = 0.1
    pair_decay: str = "linear"
    hinge_decay: str = "quadratic"
    vocab_weight: float = 0.0
    stop_gradient: bool = False  # the released code's behaviour: the terms are printed but teach nothing

    def __post_init__(self):
        if self.form not in (*POOLED_FORMS, *TOKEN_FORMS):
            raise ValueError(f"guide.form: {self.form!r}, expected one of {', '.join((*POOLED_FORMS, *TOKEN_FORMS))}")
        for name in ("pair_decay", "hinge_decay"):
            if getattr(self, name) not in DECAYS:
                raise ValueError(f"guide.{name}: {getattr(self, name)!r}, expected one of {', '.join(DECAYS)}")
        if not self.layers or min(self.layers) < 0:
            raise ValueError(f"guide.layers: {self.layers}, expected one or more layers from 0 up")

    @property
    def by_token(self) -> bool:
        return self.form in TOKEN_FORMS


def masked_mean(x: Array, mask: Array) -> Array:
    """Mean of x where mask; exactly 0 where the mask is empty."""
    mask = mask.astype(x.dtype)
    return jnp.sum(x * mask) / jnp.maximum(jnp.sum(mask), 1.0)


def cosine(a: Array, b: Array, eps: float = 1e-12) -> Array:
    """cos(a, b) over the last axis in float32; 0, with finite gradients, where either vector is zero."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    norms = jnp.maximum(jnp.sum(a * a, -1), eps) * jnp.maximum(jnp.sum(b * b, -1), eps)
    return jnp.sum(a * b, -1) * jax.lax.rsqrt(norms)


def lm_loss(logits: Array, labels: Array, mask: Array) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy in nats, mean over the labels that count.

    logits [B, K, V]; labels int32 [B, K]; mask bool [B, K]: those that count.
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    losses = -jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
    accuracy = masked_mean((jnp.argmax(log_probs, -1) == labels).astype(jnp.float32), mask)
    return masked_mean(losses, mask), {"accuracy": accuracy}


def contrastive_loss(images: Array, texts: Array, scale: Array, same: Array) -> tuple[Array, dict[str, Array]]:
    """CLIP's symmetric cross-entropy between unit embeddings images [B, E] and texts [B, E].

    same: bool [B, B], True where sample i's text says the same as sample j's (at least the diagonal): such pairs are
    positives too, each with an equal share, so that repeated captions in a batch do not repel their own pictures.
    """
    logits = scale * images @ texts.T
    shares = same / jnp.sum(same, axis=-1, keepdims=True)
    by_image = -jnp.sum(shares * jax.nn.log_softmax(logits, axis=-1), axis=-1)
    by_text = -jnp.sum(shares * jax.nn.log_softmax(logits.T, axis=-1), axis=-1)
    hits = jnp.take_along_axis(same, jnp.argmax(logits, axis=-1)[:, None], axis=-1)
    return jnp.mean(by_image + by_text) / 2, {"retrieval_accuracy": jnp.mean(hits)}


def guide_loss(
    config: GuideConfig,
    image: Array,
    caption: Array,
    retrieved: Array,
    has_pair: Array,
    has_hinge: Array,
    progress: Array,
    shares: tuple[Array | float, Array | float] = (1.0, 1.0),
) -> tuple[Array, dict[str, Array]]:
    """L_pair + L_hinge on pooled states (see GuideConfig; method of Xu et al., with `exp` that carries a gradient).

    image, caption, retrieved: I_j, C_j, R_j [J, B, D]; has_pair bool [B]: the sample has an image and a caption;
    has_hinge bool [B]: and a retrieved text in its sequence; progress: s in 0..1; shares: of this batch in all
    pairs and all hinges of the step, if it is accumulated.
    """
    caption = jax.lax.stop_gradient(caption)
    phi = POOLED_FORMS[config.form]
    cos_image, cos_retrieved = cosine(image, caption), cosine(retrieved, caption)  # [J, B]
    everywhere = jnp.ones_like(cos_image, bool)
    pair = shares[0] * masked_mean(phi(-cos_image), everywhere & has_pair)
    hinge = shares[1] * masked_mean(phi(cos_retrieved - cos_image), everywhere & has_hinge)
    loss = config.pair_weight * DECAYS[config.pair_decay](progress) * pair
    loss += config.hinge_weight * DECAYS[config.hinge_decay](progress) * hinge
    metrics = {
        "guide_pair": pair,
        "guide_hinge": hinge,
        "cos_image_caption": shares[0] * masked_mean(cos_image, everywhere & has_pair),
        **{
            f"cos_image_caption/{layer}": shares[0] * masked_mean(cos_image[j], has_pair)
            for j, layer in enumerate(config.layers)
        },
        # Different captions' states are close to each other too: a cosine means something only against this one.
        "cos_mismatched": shares[0] * masked_mean(cosine(image, jnp.roll(caption, 1, axis=1)), everywhere & has_pair),
    }
    return (jax.lax.stop_gradient(loss) if config.stop_gradient else loss), metrics


def token_guide_loss(
    config: GuideConfig,
    states: Array,
    twin: Array,
    mask: Array,
    vocab: tuple[Array, Array, Array] | None,
    has_pair: Array,
    progress: Array,
) -> tuple[Array, dict[str, Array]]:
    """L_pair of the forms by token (see GuideConfig).

    states, twin: hidden states of the sequence and of its text twin [J, B, T, D]; mask bool [B, T]: positions to match;
    vocab, or None without `vocab_weight`: the image tokens' input embeddings against the decoder's [B, P, V], the
    twin's words there int32 [B, P], and which of them count bool [B, P]; has_pair bool [B].
    """
    has_pair = has_pair & mask.any(1)
    twin = jax.lax.stop_gradient(twin.astype(jnp.float32))
    error = jnp.sum(jnp.sum((states.astype(jnp.float32) - twin) ** 2, -1) * mask, -1)  # [J, B]
    size = jnp.sum(jnp.sum(twin**2, -1) * mask, -1)
    error = error / jnp.maximum(size, 1e-12)
    fit = masked_mean(error, jnp.ones_like(error, bool) & has_pair)
    loss, metrics = fit, {"guide_error": fit}
    if vocab is not None:
        vocab_logits, words, counts = vocab
        counts = counts & has_pair[:, None]
        log_probs = jax.nn.log_softmax(vocab_logits.astype(jnp.float32))
        xent = -jnp.take_along_axis(log_probs, words[..., None], -1)[..., 0]  # [B, P]
        loss += config.vocab_weight * masked_mean(xent, counts)
        metrics["guide_words"] = masked_mean((jnp.argmax(log_probs, -1) == words).astype(jnp.float32), counts)
    loss *= config.pair_weight * DECAYS[config.pair_decay](progress)
    return (jax.lax.stop_gradient(loss) if config.stop_gradient else loss), metrics
