"""Attention in four implementations that compute the same.

Dimension letters: B batch, T query positions, S key positions, K key/value heads, G query heads per key/value head,
H head size.

"xla": any mask, any device; scores [B, K, G, T, S] are written out. "blocks": any device; scores are written out for
QUERY_BLOCK queries at a time and computed again for the gradient. "cudnn": flash attention on NVIDIA GPUs, 16-bit only.
"splash": flash attention on TPUs. The last three know padding at the end of a row, and nothing else.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

Array = jax.Array

IMPLEMENTATIONS = ("xla", "blocks", "cudnn", "splash")
QUERY_BLOCK = 192  # at most, of "blocks"
SPLASH_BLOCK = 128  # divides T and S
_LARGEST_SPLASH_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class Scores:
    """How scores come of products of queries and keys: times `scale`, None for H^-0.5; and with `cap`, softly held
    within it: cap tanh(score / cap) (Gemma 2)."""

    scale: float | None = None
    cap: float | None = None

    def of(self, products: Array, size: int) -> Array:
        """products: float32, of heads of `size` numbers."""
        scores = products * self.scale_of(size)
        return scores if self.cap is None else self.cap * jnp.tanh(scores / self.cap)

    def scale_of(self, size: int) -> float:
        return size**-0.5 if self.scale is None else self.scale


PLAIN = Scores()


def attend(
    q: Array,
    k: Array,
    v: Array,
    visible: Array | None,
    implementation: str = "xla",
    window: int | None = None,
    scores: Scores = PLAIN,
) -> Array:
    """Grouped-query attention: q [B, T, K, G, H], k and v [B, S, K, H] -> [B, T, K, G, H].

    visible: which keys a query sees. None: all. bool [B, T, S]: those (`causal_mask`), for "xla" alone. int32 [B]: the
    row's length; each position sees itself and those before it, of the last `window` if that is given. Raises
    ValueError for an unknown implementation, and for one without soft caps if `scores` has one.
    """
    if implementation == "xla":
        return _xla(q, k, v, visible, scores)
    if implementation == "blocks":
        return _blocks(q, k, v, visible, window, scores)
    if implementation == "cudnn":
        return _cudnn(q, k, v, visible, window, scores)
    if implementation == "splash":
        return _splash(q, k, v, visible, window, scores)
    raise ValueError(f"attention: {implementation!r}, expected one of {', '.join(IMPLEMENTATIONS)}")


def causal_mask(query_positions: Array, key_positions: Array, key_valid: Array, window: int | None = None) -> Array:
    """Which key each query may see: bool [B, T, S], from positions and not from array slots.

    `query_positions` [B, T] and `key_positions` [B, S] are integers, `key_valid` [B, S] is False on padding and on
    cache slots not written yet. With positions 0 1 2 and one padded slot, the rows of T = S = 4 are
    `1000 1100 1110 ----`; with `window=2` they are `1000 1100 0110 ----`.
    """
    distance = query_positions[:, :, None] - key_positions[:, None, :]
    mask = (distance >= 0) & key_valid[:, None, :]
    return mask if window is None else mask & (distance < window)


def _xla(q: Array, k: Array, v: Array, mask: Array | None, how: Scores = PLAIN) -> Array:
    """Scores and softmax are float32. A query without any visible key (padding) gets a finite average, not NaN."""
    scores = how.of(jnp.einsum("BTKGH,BSKH->BKGTS", q, k, preferred_element_type=jnp.float32), q.shape[-1])
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    return jnp.einsum("BKGTS,BSKH->BTKGH", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)


def _blocks(q: Array, k: Array, v: Array, lengths: Array | None, window: int | None, how: Scores = PLAIN) -> Array:
    """Queries in blocks, each against the keys that it may see alone. What comes after a query is hidden from it, so
    that the padding at a row's end is too: `lengths` says no more than that attention is causal."""
    if lengths is None:
        return _xla(q, k, v, None, how)
    q, k, v = jnp.einsum("BTKGH->BKGTH", q), jnp.einsum("BSKH->BKSH", k), jnp.einsum("BSKH->BKSH", v)
    out, t = [], q.shape[3]
    size = -(-t // -(-t // QUERY_BLOCK))  # as equal as can be, and a multiple of 16
    size += -size % 16
    for start in range(0, t, size):
        first, end = 0 if window is None else max(0, start - window + 1), min(start + size, t)
        out.append(_block(window, how, q[..., start:end, :], k[:, :, first:end], v[:, :, first:end]))
    return jnp.einsum("BKGTH->BTKGH", jnp.concatenate(out, axis=3))


def _rows(x: Array) -> Array:
    """[B, K, G, T, ...] -> [B, K, R, ...], R = G T: attention as plain batched products, the fastest on CPUs."""
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _block_scores(window: int | None, how: Scores, q: Array, k: Array) -> Array:
    """float32 [B, K, G, T, S] of the last T positions of S."""
    t, s = q.shape[3], k.shape[2]
    scores = jnp.einsum("BKRH,BKSH->BKRS", _rows(q), k, preferred_element_type=jnp.float32)
    scores = how.of(scores.reshape(*q.shape[:4], s), q.shape[-1])
    distance = jnp.arange(s - t, s)[:, None] - jnp.arange(s)
    seen = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
    return jnp.where(seen, scores, jnp.finfo(jnp.float32).min)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _block(window: int | None, how: Scores, q: Array, k: Array, v: Array) -> Array:
    """Causal attention of the last T positions of S: q [B, K, G, T, H], k and v [B, K, S, H] -> [B, K, G, T, H].

    The gradient is FlashAttention-2's (Dao, 2023): with P = exp(scores - logsumexp) computed again,
    dS = P * (dP - sum(dO * O)).
    """
    return _block_forward(window, how, q, k, v)[0]


def _block_forward(window: int | None, how: Scores, q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, ...]]:
    scores = _block_scores(window, how, q, k)
    largest = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - largest)
    total = weights.sum(-1, keepdims=True)
    out = jnp.einsum("BKRS,BKSH->BKRH", _rows(weights).astype(v.dtype), v, preferred_element_type=jnp.float32)
    out = (out.reshape(q.shape) / total).astype(v.dtype)
    return out, (q, k, v, out, largest + jnp.log(total))


def _block_backward(
    window: int | None, how: Scores, kept: tuple[Array, ...], dout: Array
) -> tuple[Array, Array, Array]:
    q, k, v, out, logsumexp = kept
    scores = _block_scores(window, how, q, k)
    p = jnp.exp(scores - logsumexp)
    dp = jnp.einsum("BKRH,BKSH->BKRS", _rows(dout), v, preferred_element_type=jnp.float32).reshape(p.shape)
    mean = jnp.sum(dout.astype(jnp.float32) * out.astype(jnp.float32), -1, keepdims=True)
    ds = p * (dp - mean) * how.scale_of(q.shape[-1])
    if how.cap is not None:  # the derivative of cap tanh(x / cap); p is zero where the scores are hidden
        ds = ds * (1 - jnp.square(jnp.clip(scores / how.cap, -1, 1)))
    ds = _rows(ds).astype(q.dtype)
    dq = jnp.einsum("BKRS,BKSH->BKRH", ds, k).reshape(q.shape)
    # Transposed: so that of the two factors the compiler transposes the narrow one.
    dk = jnp.einsum("BKRH,BKRS->BKHS", _rows(q), ds)
    dv = jnp.einsum("BKRH,BKRS->BKHS", _rows(dout), _rows(p).astype(v.dtype))
    return dq, dk.swapaxes(2, 3), dv.swapaxes(2, 3)


_block.defvjp(_block_forward, _block_backward)


def _cudnn(q: Array, k: Array, v: Array, lengths: Array | None, window: int | None, how: Scores = PLAIN) -> Array:
    if how.cap is not None:
        raise ValueError("attention: 'cudnn' has no soft cap of scores, expected one of xla, blocks, splash")
    b, t, heads, group, size = q.shape
    lengths = None if lengths is None else jnp.maximum(lengths, 1)  # a row without any key would give NaN
    out = jax.nn.dot_product_attention(
        q.reshape(b, t, heads * group, size),
        k,
        v,
        scale=how.scale_of(size),
        is_causal=lengths is not None,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        local_window_size=None if window is None or window >= t else (window - 1, 0),
        implementation="cudnn",
    )
    return out.reshape(q.shape)


def _splash_block(length: int) -> int:
    """The largest power of two times SPLASH_BLOCK that divides `length`."""
    return max(size for i in range(8) if length % (size := SPLASH_BLOCK << i) == 0 and size <= _LARGEST_SPLASH_BLOCK)


def _splash(
    q: Array,
    k: Array,
    v: Array,
    lengths: Array | None,
    window: int | None,
    how: Scores = PLAIN,
    interpret: bool = False,
) -> Array:
    """Sequences that SPLASH_BLOCK does not divide (CLIP's, short captions) take "blocks"."""
    b, t, _, group, size = q.shape
    if t % SPLASH_BLOCK:
        return _blocks(q, k, v, lengths, window, how)
    # Here, since few need it and it takes half a second.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask

    def rows(q: Array, k: Array, v: Array, valid: Array) -> Array:
        """This device's rows and heads: q [B, T, K, G, H], k, v [B, T, K, H], valid int32 [B, T]."""
        count = q.shape[2] * group
        if lengths is None:
            mask = splash_mask.FullMask((t, t))
        elif window is None or window >= t:
            mask = splash_mask.CausalMask((t, t))
        else:
            mask = splash_mask.LocalMask((t, t), (window - 1, 0), 0)
        n = _splash_block(t)
        blocks = splash.BlockSizes(
            block_q=n, block_kv=n, block_kv_compute=n, block_q_dkv=n, block_kv_dkv=n, block_kv_dkv_compute=n,
            block_q_dq=n, block_kv_dq=n,
        )  # fmt: skip
        kernel = splash.make_splash_mha(
            splash_mask.MultiHeadMask([mask] * count),
            block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret, attn_logits_soft_cap=how.cap,
        )  # fmt: skip
        q = (q * how.scale_of(size)).reshape(*q.shape[:2], count, size)
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        out: Any = jax.vmap(lambda q, k, v, s: kernel(q, k, v, splash.SegmentIds(s, s)))(q, k, v, valid)
        return out.swapaxes(1, 2).reshape(*out.shape[:1], t, -1, group, size)

    valid = jnp.ones((b, t), jnp.int32)
    if lengths is not None:
        valid = (jnp.arange(t) < lengths[:, None]).astype(jnp.int32)
    return _by_device(rows)(q, k, v, valid)


def _by_device(rows):
    """`rows` on each device's own rows and heads of the ambient mesh: a kernel cannot be divided by the compiler."""
    axes = jax.sharding.get_abstract_mesh().axis_names
    if not axes:
        return rows
    batch = tuple(name for name in ("data", "fsdp") if name in axes)
    head = "tensor" if "tensor" in axes else None
    one = P(batch, None, head, None)
    return jax.shard_map(
        rows,
        in_specs=(P(batch, None, head, None, None), one, one, P(batch, None)),
        out_specs=P(batch, None, head, None, None),
        check_vma=False,
    )


@functools.cache
def works(implementation: str, head_dim: int = 128) -> str | None:
    """None if the devices at hand run it, forward and backward; else why not, in a line."""
    shape = (1, SPLASH_BLOCK, 1, 2, head_dim)
    q, k = jnp.ones(shape, jnp.bfloat16), jnp.ones((*shape[:2], 1, head_dim), jnp.bfloat16)
    lengths = jnp.full((1,), SPLASH_BLOCK // 2)

    def loss(q: Array, k: Array) -> Array:
        return attend(q, k, k, lengths, implementation).astype(jnp.float32).sum()

    try:
        jax.block_until_ready(jax.jit(jax.grad(loss))(q, k))
    except Exception as error:  # whatever the compiler, the driver or the library has to say
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return None
