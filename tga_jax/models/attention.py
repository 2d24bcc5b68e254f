"""Attention in three implementations that compute the same.

Dimension letters: B batch, T query positions, S key positions, K key/value heads, G query heads per key/value head,
H head size.

"xla": any mask, any device; scores [B, K, G, T, S] are written out. "cudnn": flash attention on NVIDIA GPUs, 16-bit
only. "splash": flash attention on TPUs. The last two know padding at the end of a row, and nothing else.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

Array = jax.Array

IMPLEMENTATIONS = ("xla", "cudnn", "splash")
SPLASH_BLOCK = 128  # divides T and S
_LARGEST_BLOCK = 512


def attend(
    q: Array, k: Array, v: Array, visible: Array | None, implementation: str = "xla", window: int | None = None
) -> Array:
    """Grouped-query attention: q [B, T, K, G, H], k and v [B, S, K, H] -> [B, T, K, G, H].

    visible: which keys a query sees. None: all. bool [B, T, S]: those (`causal_mask`), for "xla" alone. int32 [B]: the
    row's length; each position sees itself and those before it, of the last `window` if that is given.
    """
    if implementation == "xla":
        return _xla(q, k, v, visible)
    if implementation == "cudnn":
        return _cudnn(q, k, v, visible, window)
    if implementation == "splash":
        return _splash(q, k, v, visible, window)
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


def _xla(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """Scores and softmax are float32. A query without any visible key (padding) gets a finite average, not NaN."""
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    return jnp.einsum("BKGTS,BSKH->BTKGH", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)


def _cudnn(q: Array, k: Array, v: Array, lengths: Array | None, window: int | None) -> Array:
    b, t, heads, group, size = q.shape
    lengths = None if lengths is None else jnp.maximum(lengths, 1)  # a row without any key would give NaN
    out = jax.nn.dot_product_attention(
        q.reshape(b, t, heads * group, size),
        k,
        v,
        is_causal=lengths is not None,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        local_window_size=None if window is None or window >= t else (window - 1, 0),
        implementation="cudnn",
    )
    return out.reshape(q.shape)


def _block(length: int) -> int:
    """The largest power of two times SPLASH_BLOCK that divides `length`."""
    return max(size for i in range(8) if length % (size := SPLASH_BLOCK << i) == 0 and size <= _LARGEST_BLOCK)


def _splash(q: Array, k: Array, v: Array, lengths: Array | None, window: int | None, interpret: bool = False) -> Array:
    """Sequences that SPLASH_BLOCK does not divide (CLIP's, short captions) take "xla"."""
    b, t, _, group, size = q.shape
    if t % SPLASH_BLOCK:
        if lengths is None:
            return _xla(q, k, v, None)
        positions = jnp.broadcast_to(jnp.arange(t), (b, t))
        return _xla(q, k, v, causal_mask(positions, positions, positions < lengths[:, None], window))
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
        n = _block(t)
        blocks = splash.BlockSizes(
            block_q=n, block_kv=n, block_kv_compute=n, block_q_dkv=n, block_kv_dkv=n, block_kv_dkv_compute=n,
            block_q_dq=n, block_kv_dq=n,
        )  # fmt: skip
        kernel = splash.make_splash_mha(
            splash_mask.MultiHeadMask([mask] * count),
            block_sizes=blocks, head_shards=1, q_seq_shards=1, interpret=interpret,
        )  # fmt: skip
        q = (q * size**-0.5).reshape(*q.shape[:2], count, size)
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
def works(implementation: str) -> str | None:
    """None if the devices at hand run it, forward and backward; else why not, in a line."""
    shape = (1, SPLASH_BLOCK, 1, 2, 128)
    q, k = jnp.ones(shape, jnp.bfloat16), jnp.ones((*shape[:2], 1, 128), jnp.bfloat16)
    lengths = jnp.full((1,), SPLASH_BLOCK // 2)

    def loss(q: Array, k: Array) -> Array:
        return attend(q, k, k, lengths, implementation).astype(jnp.float32).sum()

    try:
        jax.block_until_ready(jax.jit(jax.grad(loss))(q, k))
    except Exception as error:  # whatever the compiler, the driver or the library has to say
        return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return None
