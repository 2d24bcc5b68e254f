"""A Llama-family decoder (RMSNorm, rotary positions, grouped-query attention, gated feed-forward): Llama, Mistral,
SmolLM2, Qwen2, Qwen3, OLMo 2, Gemma 2, Gemma 3, Phi-3 and Phi-4-mini.

Dimension letters: B batch, T positions, S cache slots, D hidden, V vocabulary, K key/value heads, G query heads per
key/value head, H head size, R rotated numbers of a head, F feed-forward, N segments, L layers.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from tga_jax.models import attention, layers
from tga_jax.models.attention import Scores
from tga_jax.models.packing import Packing

Array = jax.Array
NORMS = ("pre", "post", "sandwich")  # of what attention and feed-forward read, of what they give, of both


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
    qk_norm: bool = False  # RMSNorm of query and key, before their rotation: Qwen3, OLMo 2, Gemma 3
    whole_qk_norm: bool = False  # and that over all heads together, not over each (OLMo 2)
    norms: str = "pre"  # one of NORMS: "post" OLMo 2, "sandwich" Gemma
    zero_centered_norms: bool = False  # Gemma: norms multiply by 1 + scale
    activation: str = "silu"  # one of `layers.ACTIVATIONS`
    scaled_embeddings: bool = False  # Gemma: words enter the first block times D^0.5
    query_pre_attn_scalar: int | None = None  # Gemma: scores are divided by its square root; None: by H's
    attention_cap: float | None = None  # Gemma 2: of scores, soft
    logit_cap: float | None = None  # Gemma 2: of the next token's logits, soft
    # Which blocks have the sliding window; the pattern repeats. Gemma 3: five in turn, and one that sees everything.
    window_pattern: tuple[bool, ...] = (True,)
    local_rope_theta: float | None = None  # Gemma 3: of blocks with a window, unscaled; None: as of the others
    rotary_fraction: float = 1.0  # Phi-4-mini: of a head's numbers, the first R are rotated
    remat: str = "none"  # one of `layers.REMAT`
    # One of `attention.IMPLEMENTATIONS`. All but "xla" take rows whose padding, if any, is at the end, and no cache.
    attention: str = "xla"
    lora: layers.LoraConfig | None = None

    def __post_init__(self):
        for name, known in (("remat", layers.REMAT), ("norms", NORMS), ("activation", tuple(layers.ACTIVATIONS))):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name}: {value!r}, expected one of {', '.join(known)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads: {self.num_heads}, expected a multiple of num_kv_heads={self.num_kv_heads}")
        if self.whole_qk_norm and not self.qk_norm:
            raise ValueError("whole_qk_norm: True, expected qk_norm with it")
        if not self.window_pattern:
            raise ValueError("window_pattern: (), expected one entry a block, or fewer that repeat")
        if self.rotary_size < 2 or self.rotary_size % 2 or self.rotary_fraction > 1:
            said = f"{self.rotary_fraction} (partial_rotary_factor) of head_dim {self.head_dim}"
            raise ValueError(f"rotary_fraction: {said}, expected an even number of rotated ones")
        if self.rope_scaling is not None and self.rope_scaling.kind == "longrope":
            counts = [len(x or ()) for x in (self.rope_scaling.short_factor, self.rope_scaling.long_factor)]
            if counts != [half := self.rotary_size // 2] * 2:
                raise ValueError(f"rope_scaling: {counts} factors, expected {half} short and long ones")
        if self.attention == "cudnn" and self.attention_cap is not None:
            raise ValueError("attention: 'cudnn' has no soft cap of scores, expected one of xla, blocks, splash")

    @property
    def rotary_size(self) -> int:
        """R."""
        return int(self.head_dim * self.rotary_fraction)

    @property
    def windowed(self) -> tuple[bool, ...]:
        """Of each block, whether it has the sliding window; [L]."""
        if self.sliding_window is None:
            return (False,) * self.num_layers
        return tuple(self.window_pattern[i % len(self.window_pattern)] for i in range(self.num_layers))

    @property
    def is_mixed(self) -> bool:
        """Whether some blocks have the window and some have not."""
        return len(set(self.windowed)) > 1

    @property
    def scores(self) -> Scores:
        return Scores(self.query_pre_attn_scalar and self.query_pre_attn_scalar**-0.5, self.attention_cap)


@flax.struct.dataclass
class KVCache:
    """What earlier positions left for attention; goes into the decoder and comes out as a value."""

    # [L, B, S, K, H], or of separate blocks L arrays [B, S, K, H], each then written in place.
    k: Array | tuple[Array, ...]
    v: Array | tuple[Array, ...]
    positions: Array  # int32 [B, S]
    valid: Array  # bool [B, S]; False: padding, or not written yet
    length: Array  # int32 scalar: slots written so far, the same for all rows


@flax.struct.dataclass
class DecoderOutput:
    hidden: Array  # [B, T, D], after the final norm
    means: Array | None  # float32 [L+1, B, N, D]: segment means of layer 0 (embeddings) .. L
    states: Array | None  # [L+1, B, T, D]: all hidden states, before the final norm
    cache: KVCache | None


def empty_cache(config: LlamaConfig, batch: int, slots: int, separate: bool = False) -> KVCache:
    shape = (batch, slots, config.num_kv_heads, config.head_dim)
    if separate:
        zeros = (jnp.zeros(shape, config.dtype),) * config.num_layers
    else:
        zeros = jnp.zeros((config.num_layers, *shape), config.dtype)
    return KVCache(
        k=zeros, v=zeros, positions=jnp.zeros((batch, slots), jnp.int32), valid=jnp.zeros((batch, slots), bool),
        length=jnp.zeros((), jnp.int32),
    )  # fmt: skip


def by_kind(config: LlamaConfig, make: Callable[[bool], Any]) -> Any:
    """make(whether a block has the sliding window); of a mixed config the pair (make(True), make(False))."""
    return (make(True), make(False)) if config.is_mixed else make(any(config.windowed))


def rotations(config: LlamaConfig, positions: Array, lengths: Array) -> Any:
    """cos and sin of the rotary angles, `by_kind`, for positions [B, T] of rows of lengths [B]."""

    def of(windowed: bool) -> tuple[Array, Array]:
        if windowed and config.local_rope_theta is not None:
            return layers.rope_angles(positions, config.rotary_size, config.local_rope_theta)
        return layers.rope_angles(positions, config.rotary_size, config.rope_theta, config.rope_scaling, lengths)

    return by_kind(config, of)


def masks(config: LlamaConfig, positions: Array, key_positions: Array, key_valid: Array) -> Any:
    """Which keys a query sees, bool [B, T, S], `by_kind`; arguments as `attention.causal_mask` takes them."""

    def of(windowed: bool) -> Array:
        return attention.causal_mask(positions, key_positions, key_valid, config.sliding_window if windowed else None)

    return by_kind(config, of)


class DecoderBlock(nn.Module):
    config: LlamaConfig
    emit_states: bool

    @nn.compact
    def __call__(self, x, kv, windowed, rope, visible, slot, segments, packing=None):
        """One layer: x [B, T, D] -> (x, (kv, means, states)).

        kv: this layer's cached (k, v), each [B, S, K, H], into which the new ones are written at `slot`; or None;
        windowed: of a mixed config, whose `rope` and `visible` are pairs, whether this block has the sliding window,
        bool scalar; else None; rope, visible: as `rotations` makes it, and `attention.attend` takes it, which with a
        packing is of the samples.
        """
        c = self.config
        if windowed is not None:
            rope, visible = (jax.tree.map(partial(jnp.where, windowed), *pair) for pair in (rope, visible))
        dtype = jnp.dtype(c.dtype)
        group = c.num_heads // c.num_kv_heads

        def dense(features: int | tuple[int, ...], name: str, bias: bool, axis: tuple[int, ...] = (-1,)):
            how: Any = {"dot_general": layers.product, "promote_dtype": layers.promoted}
            module = nn.DenseGeneral(features, axis=axis, use_bias=bias, dtype=dtype, name=name, **how)
            if c.lora is None or name not in c.lora.targets:
                return module
            features = features if isinstance(features, tuple) else (features,)
            lora = layers.Lora(c.lora, features, axis, dtype, name=f"{name}_lora")
            return lambda h: module(h) + lora(h)

        def norm(name: str) -> layers.RMSNorm:
            return layers.RMSNorm(c.rms_norm_eps, dtype, c.zero_centered_norms, name=name)

        def norm_unless(norms: str, name: str, x: Array) -> Array:
            return x if c.norms == norms else norm(name)(x)

        def norm_heads(name: str, x: Array) -> Array:
            return norm(name)(x.reshape(*x.shape[:2], -1)).reshape(x.shape) if c.whole_qk_norm else norm(name)(x)

        def attend(window: int | None) -> Callable[..., Array]:
            return partial(attention.attend, implementation=c.attention, window=window, scores=c.scores)

        h = norm_unless("post", "attention_norm", x)
        q = dense((c.num_kv_heads, group, c.head_dim), "query", c.qkv_bias)(h)
        k = dense((c.num_kv_heads, c.head_dim), "key", c.qkv_bias)(h)
        if c.qk_norm:
            q, k = norm_heads("query_norm", q), norm_heads("key_norm", k)
        q, k = layers.apply_rope(q, *rope), layers.apply_rope(k, *rope)
        v = dense((c.num_kv_heads, c.head_dim), "value", c.qkv_bias)(h)
        q, k, v = (checkpoint_name(y, name) for y, name in ((q, "query"), (k, "key"), (v, "value")))
        if kv is not None:
            k, v = (
                jax.lax.dynamic_update_slice_in_dim(old, new, slot, axis=1) for old, new in zip(kv, (k, v), strict=True)
            )
            kv = (k, v)
        if packing is not None:
            q, k, v = (layers.by_rows(packing.unpack(y)) for y in (q, k, v))
        if windowed is None or c.attention == "xla":  # whose mask knows the window
            h = attend(c.sliding_window if any(c.windowed) else None)(q, k, v, visible)
        else:
            h = jax.lax.cond(windowed, attend(c.sliding_window), attend(None), q, k, v, visible)
        h = checkpoint_name(h if packing is None else packing.pack(h), "context")
        h = dense(c.hidden_size, "out", c.out_bias, axis=(-3, -2, -1))(h)
        x = x + norm_unless("pre", "attention_post_norm", checkpoint_name(h, "out"))
        h = norm_unless("post", "mlp_norm", x)
        gate = layers.ACTIVATIONS[c.activation](dense(c.mlp_size, "gate", c.mlp_bias)(h))
        h = dense(c.hidden_size, "down", c.mlp_bias)(gate * dense(c.mlp_size, "up", c.mlp_bias)(h))
        x = layers.by_rows(x + norm_unless("pre", "mlp_post_norm", h))
        if self.has_variable("params", "shift"):  # of `evals.defences.steering`
            x = x + self.get_variable("params", "shift").astype(x.dtype)
        means = None if segments is None else layers.segment_means(x, segments)
        return x, (kv, means, x if self.emit_states else None)


class SeparateBlocks(nn.Module):
    """The blocks one after another, each with parameters of its own, `0` to `L-1`; takes and gives what the scan does.

    A scan copies each block's slice of the stack before it is used. In training that is little beside the matrix
    products; in decoding, which reads every weight for a few tokens, it triples the memory traffic.
    """

    config: LlamaConfig
    emit_states: bool

    @nn.compact
    def __call__(self, x, kv, windowed, rope, visible, slot, segments, packing=None):
        c, out = self.config, []
        for i, has_window in enumerate(c.windowed):
            config, own = c, (rope, visible)
            if windowed is not None:  # each block by its own kind
                window = c.sliding_window if has_window else None
                config = dataclasses.replace(c, sliding_window=window, window_pattern=(True,))
                own = (rope[not has_window], visible[not has_window])
            layer_kv = None if kv is None else (kv[0][i], kv[1][i])
            block = DecoderBlock(config, self.emit_states, name=str(i))
            x, found = block(x, layer_kv, None, *own, slot, segments, packing)
            out.append(found)
        kvs, means, states = zip(*out, strict=True)
        means, states = (None if xs[0] is None else jnp.stack(xs) for xs in (means, states))
        return x, (None if kv is None else tuple(zip(*kvs, strict=True)), means, states)


class Decoder(nn.Module):
    """separate: parameters as `separate_blocks` gives them, for decoding; else the blocks' are stacked."""

    config: LlamaConfig
    emit_states: bool = False
    separate: bool = False

    def setup(self):
        c = self.config
        dtype = jnp.dtype(c.dtype)
        # Scaled to the width (0.016 at 4096): a fixed 0.02 starts a small decoder so near zero that it hardly learns.
        init = nn.initializers.normal(c.hidden_size**-0.5)
        self.embedding = nn.Embed(c.vocab_size, c.hidden_size, dtype=dtype, embedding_init=init, name="embed")
        if self.separate:
            self.blocks = SeparateBlocks(c, self.emit_states)
        elif c.num_layers:
            axes = (0, 0, *(nn.broadcast,) * 5)
            stack = layers.block_stack(DecoderBlock, c.num_layers, axes, c.remat)
            self.blocks = stack(c, self.emit_states)
        self.final_norm = layers.RMSNorm(c.rms_norm_eps, dtype, c.zero_centered_norms)
        if not c.tie_embeddings:
            self.head = nn.Dense(c.vocab_size, use_bias=False, dtype=dtype, name="lm_head")

    def embed(self, tokens: Array) -> Array:
        """int32 tokens [B, T] -> [B, T, D], as they enter the first block."""
        x = layers.looked_up(self.embedding(tokens))
        return x * embedding_scale(self.config).astype(x.dtype) if self.config.scaled_embeddings else x

    def logits(self, hidden: Array) -> Array:
        """States after the final norm [..., D] -> float32 [..., V]."""
        c = self.config
        logits = (self.embedding.attend(hidden) if c.tie_embeddings else self.head(hidden)).astype(jnp.float32)
        return logits if c.logit_cap is None else c.logit_cap * jnp.tanh(logits / c.logit_cap)

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
        packing: Packing | None = None,
    ) -> DecoderOutput:
        """Runs all blocks.

        x: input embeddings [B, T, D]; positions: int32 [B, T]; valid: bool [B, T], False on padding;
        segments: bool [B, N, T], positions whose mean is wanted at every layer; cache: earlier keys and values, to
        which the T new ones are appended (all rows in the same slots; rows of unequal length differ in `valid`);
        packing: the samples that share the rows, each of which sees itself alone.
        """
        c = self.config
        chex.assert_shape([positions, valid], x.shape[:2])
        chex.assert_shape(x, (None, None, c.hidden_size))
        if segments is not None:
            chex.assert_shape(segments, (x.shape[0], None, x.shape[1]))
        x = layers.by_rows(x.astype(c.dtype))
        first = x
        key_positions, key_valid, slot = positions, valid, None
        if cache is not None:
            slot = cache.length
            key_positions = jax.lax.dynamic_update_slice_in_dim(cache.positions, positions, slot, axis=1)
            key_valid = jax.lax.dynamic_update_slice_in_dim(cache.valid, valid, slot, axis=1)
        if packing is not None:
            positions = key_positions = packing.unpack(positions)
            valid = key_valid = packing.valid
        if c.attention == "xla":
            visible = masks(c, positions, key_positions, key_valid)
        else:
            visible = by_kind(c, lambda _: valid.sum(1, dtype=jnp.int32))
        # With a cache, of what a row is to become: "longrope" must rotate all of its keys alike.
        room = 0 if cache is None else key_valid.shape[1] - cache.length - x.shape[1]
        rope = rotations(c, positions, key_valid.sum(1, dtype=jnp.int32) + room)
        if packing is not None:
            rope = jax.tree.map(packing.pack, rope)
        windowed = jnp.array(c.windowed) if c.is_mixed else None
        kv, means, states = None if cache is None else (cache.k, cache.v), None, None
        if c.num_layers:
            x, (kv, means, states) = self.blocks(x, kv, windowed, rope, visible, slot, segments, packing)
        if segments is not None:
            lowest = layers.segment_means(first, segments)[None]
            means = lowest if means is None else jnp.concatenate([lowest, means])
        if self.emit_states:
            states = first[None] if states is None else jnp.concatenate([first[None], states])
        if cache is not None:
            cache = KVCache(kv[0], kv[1], key_positions, key_valid, slot + x.shape[1])  # pyrefly: ignore
        return DecoderOutput(self.final_norm(x), means, states, cache)

    def from_tokens(self, tokens: Array, valid: Array) -> Array:
        """Text only: tokens and valid [B, T] -> logits [B, T, V]."""
        return self.logits(self(self.embed(tokens), positions(valid), valid).hidden)


def embedding_scale(config: LlamaConfig) -> Array:
    """float32 scalar: what multiplies words' embeddings before the first block, rounded as the activations are."""
    return jnp.asarray(config.hidden_size**0.5 if config.scaled_embeddings else 1.0, config.dtype).astype(jnp.float32)


def positions(valid: Array, left: bool = False) -> Array:
    """int32 [B, T]: where each token stands among its row's own, which valid bool [B, T] marks, from 0 on.

    left: rows may be padded on the left too. Worked row: valid `0 1 1 1 0` -> `0 0 1 2 2`; padding's do not matter.
    """
    if left:
        return jnp.maximum(jnp.cumsum(valid, axis=1) - 1, 0).astype(jnp.int32)
    return jnp.broadcast_to(jnp.arange(valid.shape[1], dtype=jnp.int32), valid.shape)


def separate_blocks(params: dict, free: bool = False) -> dict:
    """The same decoder parameters with a tree a block, `blocks/0` to `blocks/L-1`. free: the stacked arrays are deleted
    one by one, so that the whole is never held twice."""
    stacks, structure = jax.tree.flatten(params["blocks"])
    columns = []
    for stack in stacks:
        columns.append([stack[i] for i in range(stack.shape[0])])
        if free:
            jax.block_until_ready(columns[-1])
            stack.delete()
    blocks = {str(i): structure.unflatten(leaves) for i, leaves in enumerate(zip(*columns, strict=True))}
    return {**params, "blocks": blocks}


def are_separate(params: dict) -> bool:
    return "0" in params.get("blocks", {})


def bound(config: LlamaConfig, params: dict, emit_states: bool = False) -> Callable[..., Any]:
    """`Decoder.__call__` or, by `method=`, another of its methods, with these parameters, stacked or separate."""
    return partial(layers.apply, Decoder(config, emit_states, are_separate(params)), params)


def first_blocks(config: LlamaConfig, params: dict, count: int, emit_states: bool = False) -> tuple[Decoder, dict]:
    """The same decoder cut to its first `count` blocks, and its parameters; the head and final norm are kept."""
    return Decoder(dataclasses.replace(config, num_layers=count), emit_states), layers.keep_blocks(params, count)
