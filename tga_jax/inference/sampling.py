"""How the next token is chosen from its logits.

Dimension letters: B batch, V vocabulary.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Applied in this order, as in transformers. The defaults choose greedily."""

    repetition_penalty: float = 1.0  # > 1: logits of tokens seen before, prompt included, are lowered (Keskar et al.)
    temperature: float = 0.0  # 0: greedy, and nothing below matters
    top_k: int | None = None  # the k likeliest
    top_p: float = 1.0  # the fewest likeliest that hold this probability (Holtzman et al., 2020)
    min_p: float = 0.0  # those of at least this share of the likeliest one's probability (Nguyen et al., 2024)

    def __post_init__(self):
        for name, good, expected in (
            ("repetition_penalty", 0 < self.repetition_penalty < math.inf, "more than 0"),
            ("temperature", 0 <= self.temperature < math.inf, "0 or more"),
            ("top_k", self.top_k is None or self.top_k >= 1, "1 or more"),
            ("top_p", 0 < self.top_p <= 1, "more than 0, at most 1"),
            ("min_p", 0 <= self.min_p <= 1, "from 0 to 1"),
        ):
            if not good:
                raise ValueError(f"{name}: {getattr(self, name)}, expected {expected}")


GREEDY = Sampling()


def _without_unlikely(config: Sampling, logits: Array) -> Array:
    """-inf where top_k, top_p or min_p leave a token out; the likeliest one always stays."""
    if config.top_k is not None and config.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, config.top_k)[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if config.top_p < 1:
        order = jnp.argsort(logits, axis=-1)  # ascending, so that a token is left out if it and all below are too few
        below = jnp.cumsum(jax.nn.softmax(jnp.take_along_axis(logits, order, axis=-1), axis=-1), axis=-1)
        out = (below <= 1 - config.top_p).at[..., -1].set(False)
        rank = jnp.argsort(order, axis=-1)
        logits = jnp.where(jnp.take_along_axis(out, rank, axis=-1), -jnp.inf, logits)
    if config.min_p > 0:
        least = logits.max(-1, keepdims=True) + jnp.log(config.min_p)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def distribution(config: Sampling, logits: Array, seen: Array | None) -> Array:
    """float32 logits [B, V] of the distribution to sample from; seen: bool [B, V], for the repetition penalty."""
    logits = logits.astype(jnp.float32)
    if seen is not None and config.repetition_penalty != 1:
        penalised = jnp.where(logits > 0, logits / config.repetition_penalty, logits * config.repetition_penalty)
        logits = jnp.where(seen, penalised, logits)
    if config.temperature == 0:
        return logits
    return _without_unlikely(config, logits / config.temperature)


def choose(config: Sampling, logits: Array, seen: Array | None, keys: Array) -> Array:
    """int32 [B]: the next token of every row. keys: [B], one a row, so that a row's choice is its own."""
    logits = distribution(config, logits, seen)
    if config.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(keys, logits).astype(jnp.int32)
