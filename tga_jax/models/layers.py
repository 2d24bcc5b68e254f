"""Layers shared by the CLIP towers and the decoder.

Dimension letters: B batch, T query positions, S key positions, D hidden, K key/value heads, G query heads per
key/value head, H head size, N segments, L layers.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
}


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axis, computed in float32."""

    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return (x * scale).astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are lowered for a longer context than a model was first trained on.

    "linear": all by `factor` (position interpolation, Chen et al., 2023). "llama3": those with wavelengths above
    original_length / low_freq_factor by `factor`, those below original_length / high_freq_factor not at all, and a
    blend between (Llama 3.1).
    """

    kind: str
    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_length: int | None = None

    def __post_init__(self):
        if self.kind not in ("linear", "llama3"):
            raise ValueError(f"rope_scaling: kind {self.kind!r}, expected 'linear' or 'llama3'")
        rest = (self.low_freq_factor, self.high_freq_factor, self.original_length)
        if [r is None for r in rest] != [self.kind == "linear"] * 3:
            raise ValueError(
                "rope_scaling: low_freq_factor, high_freq_factor and original_length belong to 'llama3', all three"
            )


def rope_frequencies(head_dim: int, theta: float, scaling: RopeScaling | None) -> Array:
    """Rotary frequencies float32 [H/2], in radians a position."""
    frequencies = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    if scaling is None:
        return frequencies
    scaled = frequencies / scaling.factor
    if scaling.low_freq_factor is None or scaling.high_freq_factor is None or scaling.original_length is None:
        return scaled
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = scaling.original_length * frequencies / (2 * jnp.pi)  # within the original length
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return kept * frequencies + (1 - kept) * scaled


def rope_angles(
    positions: Array, head_dim: int, theta: float, scaling: RopeScaling | None = None
) -> tuple[Array, Array]:
    """cos and sin of the rotary angles, each float32 [B, T, H/2], for integer positions [B, T]."""
    frequencies = rope_frequencies(head_dim, theta, scaling)
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def apply_rope(x: Array, cos: Array, sin: Array) -> Array:
    """Rotates x [B, T, ..., H] in the half-split form of the hub's checkpoints: (x1, x2) are the halves of H."""
    cos, sin = (jnp.expand_dims(a, axis=tuple(range(2, x.ndim - 1))) for a in (cos, sin))
    x1, x2 = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x.dtype)


def causal_mask(query_positions: Array, key_positions: Array, key_valid: Array, window: int | None = None) -> Array:
    """Which key each query may see: bool [B, T, S], from positions and not from array slots.

    `query_positions` [B, T] and `key_positions` [B, S] are integers, `key_valid` [B, S] is False on padding and on
    cache slots not written yet. With positions 0 1 2 and one padded slot, the rows of T = S = 4 are
    `1000 1100 1110 ----`; with `window=2` they are `1000 1100 0110 ----`.
    """
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    mask = (distance >= 0) & key_valid[:, None, :]
    return mask if window is None else mask & (distance < window)


def attend(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """Grouped-query attention: q [B, T, K, G, H], k and v [B, S, K, H], mask bool [B, T, S] -> [B, T, K, G, H].

    Scores and softmax are float32. A query without any visible key (padding) gets a finite average, not NaN.
    """
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    return jnp.einsum("BKGTS,BSKH->BTKGH", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)


def apply(module: nn.Module, params: dict, *args: Any, method: str = "__call__") -> Any:
    """`module.<method>(*args)` with `params`, without linen's union of return types."""
    return module.apply({"params": params}, *args, method=method)


def segment_means(x: Array, segments: Array) -> Array:
    """Masked means: x [B, T, D], segments bool [B, N, T] -> float32 [B, N, D]; an empty segment gives zeros."""
    weights = segments.astype(jnp.float32)
    weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1.0)
    return jnp.einsum("BNT,BTD->BND", weights, x.astype(jnp.float32))


def keep_blocks(params: dict, count: int) -> dict:
    """The parameters of the same tower cut to its first `count` blocks (they are stacked along axis 0)."""
    rest = {name: value for name, value in params.items() if name != "blocks"}
    return rest if count == 0 else {**rest, "blocks": jax.tree.map(lambda p: p[:count], params["blocks"])}


def block_stack(block: type[nn.Module], length: int, in_axes: Any, remat: str = "none"):
    """`block` scanned over `length` layers whose parameters are stacked along axis 0.

    remat: "none" keeps all activations for the backward pass, "full" recomputes each block.
    """
    if remat == "full":
        block = nn.remat(block, prevent_cse=False)
    elif remat != "none":
        raise ValueError(f"remat: {remat!r}, expected 'none' or 'full'")
    return nn.scan(
        block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=in_axes, out_axes=0, length=length
    )


def unit(x: Array, eps: float = 1e-12) -> Array:
    """x / |x| over the last axis in float32; a zero vector stays zero and its gradient stays finite."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), eps))
