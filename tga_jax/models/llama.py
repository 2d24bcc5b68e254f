"""A Llama-family decoder (RMSNorm, rotary positions, grouped-query attention, SwiGLU): Llama, Mistral, SmolLM2, Qwen2.

Dimension letters: B batch, T positions, S cache slots, D hidden, V vocabulary, K key/value heads, G query heads per
key/value head, H head size, F feed-forward, N segments, L layers.
"""

import dataclasses

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from tga_jax.models import layers

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_size: int
    rope_theta: float
    rms_norm_eps: float
    sliding_window: int | None
    tie_embeddings: bool
    dtype: str = "float32"  # of activations
    rope_scaling: layers.RopeScaling | None = None
    qkv_bias: bool = False  # Qwen2, and Llama's attention_bias
    out_bias: bool = False  # Llama's attention_bias
    mlp_bias: bool = False
    remat: str = "none"

    def __post_init__(self):
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads: {self.num_heads}, expected a multiple of num_kv_heads={self.num_kv_heads}")


@flax.struct.dataclass
class KVCache:
    """What earlier positions left for attention; goes into the decoder and comes out as a value."""

    k: Array  # [L, B, S, K, H]
    v: Array  # [L, B, S, K, H]
    positions: Array  # int32 [B, S]
    valid: Array  # bool [B, S]; False: padding, or not written yet
    length: Array  # int32 scalar: slots written so far, the same for all rows


@flax.struct.dataclass
class DecoderOutput:
    hidden: Array  # [B, T, D], after the final norm
    means: Array | None  # float32 [L+1, B, N, D]: segment means of layer 0 (embeddings) .. L
    states: Array | None  # [L+1, B, T, D]: all hidden states, before the final norm
    cache: KVCache | None


def empty_cache(config: LlamaConfig, batch: int, slots: int) -> KVCache:
    shape = (config.num_layers, batch, slots, config.num_kv_heads, config.head_dim)
    zeros = jnp.zeros(shape, config.dtype)
    return KVCache(
        k=zeros, v=zeros, positions=jnp.zeros((batch, slots), jnp.int32), valid=jnp.zeros((batch, slots), bool),
        length=jnp.zeros((), jnp.int32),
    )  # fmt: skip


class DecoderBlock(nn.Module):
    config: LlamaConfig
    emit_states: bool

    @nn.compact
    def __call__(self, x, kv, rope, mask, slot, segments):
        """One layer: x [B, T, D] -> (x, (kv, means, states)).

        kv: this layer's cached (k, v), each [B, S, K, H], into which the new ones are written at `slot`; or None.
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        group = c.num_heads // c.num_kv_heads

        def dense(features, name, bias: bool, axis: int | tuple[int, ...] = -1):
            return nn.DenseGeneral(features, axis=axis, use_bias=bias, dtype=dtype, name=name)

        h = layers.RMSNorm(c.rms_norm_eps, dtype, name="attention_norm")(x)
        q = layers.apply_rope(dense((c.num_kv_heads, group, c.head_dim), "query", c.qkv_bias)(h), *rope)
        k = layers.apply_rope(dense((c.num_kv_heads, c.head_dim), "key", c.qkv_bias)(h), *rope)
        v = dense((c.num_kv_heads, c.head_dim), "value", c.qkv_bias)(h)
        if kv is not None:
            k, v = (
                jax.lax.dynamic_update_slice_in_dim(old, new, slot, axis=1) for old, new in zip(kv, (k, v), strict=True)
            )
            kv = (k, v)
        x = x + dense(c.hidden_size, "out", c.out_bias, axis=(-3, -2, -1))(layers.attend(q, k, v, mask))
        h = layers.RMSNorm(c.rms_norm_eps, dtype, name="mlp_norm")(x)
        h = jax.nn.silu(dense(c.mlp_size, "gate", c.mlp_bias)(h)) * dense(c.mlp_size, "up", c.mlp_bias)(h)
        x = x + dense(c.hidden_size, "down", c.mlp_bias)(h)
        means = None if segments is None else layers.segment_means(x, segments)
        return x, (kv, means, x if self.emit_states else None)


class Decoder(nn.Module):
    config: LlamaConfig
    emit_states: bool = False

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        # Scaled to the width (0.016 at 4096): a fixed 0.02 starts a small decoder so near zero that it hardly learns.
        init = nn.initializers.normal(c.hidden_size**-0.5)
        self.embedding = nn.Embed(c.vocab_size, c.hidden_size, dtype=dtype, embedding_init=init, name="embed")
        if c.num_layers:
            axes = (0, nn.broadcast, nn.broadcast, nn.broadcast, nn.broadcast)
            stack = layers.block_stack(DecoderBlock, c.num_layers, axes, c.remat)
            self.blocks = stack(c, self.emit_states)
        self.final_norm = layers.RMSNorm(c.rms_norm_eps, dtype)
        if not c.tie_embeddings:
            self.head = nn.Dense(c.vocab_size, use_bias=False, dtype=dtype, name="lm_head")

    def embed(self, tokens: Array) -> Array:
        """int32 tokens [B, T] -> [B, T, D]."""
        return self.embedding(tokens)

    def logits(self, hidden: Array) -> Array:
        """States after the final norm [..., D] -> float32 [..., V]."""
        logits = self.embedding.attend(hidden) if self.config.tie_embeddings else self.head(hidden)
        return logits.astype(jnp.float32)

    def lens(self, states: Array) -> Array:
        """The logit lens: states of any layer, before the final norm, [..., D] -> float32 [..., V]."""
        return self.logits(self.final_norm(states))

    def __call__(
        self,
        x: Array,
        positions: Array,
        valid: Array,
        segments: Array | None = None,
        cache: KVCache | None = None,
    ) -> DecoderOutput:
        """Runs all blocks.

        x: input embeddings [B, T, D]; positions: int32 [B, T]; valid: bool [B, T], False on padding;
        segments: bool [B, N, T], positions whose mean is wanted at every layer; cache: earlier keys and values, to
        which the T new ones are appended (all rows in the same slots; rows of unequal length differ in `valid`).
        """
        c = self.config
        x = x.astype(c.dtype)
        first = x
        key_positions, key_valid, slot = positions, valid, None
        if cache is not None:
            slot = cache.length
            key_positions = jax.lax.dynamic_update_slice_in_dim(cache.positions, positions, slot, axis=1)
            key_valid = jax.lax.dynamic_update_slice_in_dim(cache.valid, valid, slot, axis=1)
        mask = layers.causal_mask(positions, key_positions, key_valid, c.sliding_window)
        rope = layers.rope_angles(positions, c.head_dim, c.rope_theta, c.rope_scaling)
        kv, means, states = None if cache is None else (cache.k, cache.v), None, None
        if c.num_layers:
            x, (kv, means, states) = self.blocks(x, kv, rope, mask, slot, segments)
        if segments is not None:
            lowest = layers.segment_means(first, segments)[None]
            means = lowest if means is None else jnp.concatenate([lowest, means])
        if self.emit_states:
            states = first[None] if states is None else jnp.concatenate([first[None], states])
        if cache is not None:
            cache = KVCache(kv[0], kv[1], key_positions, key_valid, slot + x.shape[1])  # pyright: ignore
        return DecoderOutput(self.final_norm(x), means, states, cache)

    def from_tokens(self, tokens: Array, valid: Array) -> Array:
        """Text only: tokens and valid [B, T] -> logits [B, T, V]."""
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32), tokens.shape)
        return self.logits(self(self.embed(tokens), positions, valid).hidden)


def first_blocks(config: LlamaConfig, params: dict, count: int, emit_states: bool = False) -> tuple[Decoder, dict]:
    """The same decoder cut to its first `count` blocks, and its parameters; the head and final norm are kept."""
    return Decoder(dataclasses.replace(config, num_layers=count), emit_states), layers.keep_blocks(params, count)
