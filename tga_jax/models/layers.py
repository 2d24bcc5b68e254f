"""Layers shared by the CLIP towers and the decoder.

Dimension letters: B batch, T positions, D hidden, H head size, N segments, L layers.
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from tga_jax.errors import check_range
from tga_jax.models import quantization

Array = jax.Array

ACTIVATIONS = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_pytorch_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
}


REMAT = ("none", "names", "full")
# By `jax.ad_checkpoint.checkpoint_name`: what attention reads and gives. The feed-forward part, three times as wide, is
# cheaper to compute again than to keep.
SAVED = ("query", "key", "value", "context", "out")


def _ambient(*names: str) -> dict[str, int]:
    """The sizes of those axes of the ambient mesh that the compiler divides arrays along."""
    mesh = jax.sharding.get_abstract_mesh()
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    return {name: mesh.shape[name] for name in names if types.get(name) == AxisType.Auto}


def by_rows(x: Array) -> Array:
    """x [B, ...], its rows along the `data` and `fsdp` axes of the ambient mesh, if that has such and they divide B.

    Parameters are divided along `fsdp` too. Left alone, the compiler may move activations, which are far larger,
    instead of gathering parameters.
    """
    axes = _ambient("data", "fsdp")
    if not axes or x.shape[0] % math.prod(axes.values()):
        return x
    return jax.lax.with_sharding_constraint(x, P(tuple(axes)))


def looked_up(x: Array) -> Array:
    """`by_rows` of x [B, T, D] that was looked up in a table whose D lies along `fsdp`.

    It is placed as the lookup gives it before, rows along `data` and D along `fsdp`: between the two the devices of an
    `fsdp` group exchange their parts. Left alone, the compiler would replicate x on all devices of both axes.
    """
    axes = _ambient("data", "fsdp")
    if len(axes) < 2 or x.shape[0] % axes["data"] or x.shape[2] % axes["fsdp"]:
        return by_rows(x)
    return by_rows(jax.lax.with_sharding_constraint(x, P("data", None, "fsdp")))


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are lowered for a longer context than a model was first trained on.

    "linear": all by `factor` (position interpolation, Chen et al., 2023). "llama3": those with wavelengths above
    original_length / low_freq_factor by `factor`, those below original_length / high_freq_factor not at all, and a
    blend between (Llama 3.1). "longrope": each by a factor of its own, short_factor in rows of up to original_length
    tokens, long_factor in longer ones, and the rotated numbers times attention_factor (Ding et al., 2024).
    """

    kind: str
    factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_length: int | None = None
    short_factor: tuple[float, ...] | None = None  # [R/2]
    long_factor: tuple[float, ...] | None = None  # [R/2]
    attention_factor: float | None = None

    def __post_init__(self):
        if self.kind not in ROPE_FIELDS:
            raise ValueError(f"rope_scaling: kind {self.kind!r}, expected one of {', '.join(ROPE_FIELDS)}")
        given = {name for name, value in vars(self).items() if name != "kind" and value is not None}
        if given != set(ROPE_FIELDS[self.kind]):
            raise ValueError(f"rope_scaling: {self.kind!r} has {', '.join(ROPE_FIELDS[self.kind])}, all and no other")


ROPE_FIELDS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_length"),
    "longrope": ("original_length", "short_factor", "long_factor", "attention_factor"),
}


def rope_frequencies(size: int, theta: float, scaling: RopeScaling | None, lengths: Array | None = None) -> Array:
    """Rotary frequencies float32 [R/2], in radians a position, of R = `size` numbers of a head; of "longrope", which
    needs the lengths [B] of the rows, [B, 1, R/2]."""
    frequencies = theta ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    s: Any = scaling  # whose fields are there, by its kind
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / s.factor
    if scaling.kind == "longrope":
        assert lengths is not None
        is_long = (lengths > s.original_length)[:, None, None]
        return frequencies / jnp.where(is_long, jnp.array(s.long_factor), jnp.array(s.short_factor))
    low, high = s.low_freq_factor, s.high_freq_factor
    turns = s.original_length * frequencies / (2 * jnp.pi)  # within the original length
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return kept * frequencies + (1 - kept) * frequencies / s.factor


def rope_angles(
    positions: Array, size: int, theta: float, scaling: RopeScaling | None = None, lengths: Array | None = None
) -> tuple[Array, Array]:
    """cos and sin of the rotary angles, each float32 [B, T, R/2], for integer positions [B, T]; size: R. lengths: as
    `rope_frequencies` takes them."""
    angles = positions[..., None].astype(jnp.float32) * rope_frequencies(size, theta, scaling, lengths)
    if scaling is None or scaling.attention_factor is None:
        return jnp.cos(angles), jnp.sin(angles)
    return scaling.attention_factor * jnp.cos(angles), scaling.attention_factor * jnp.sin(angles)


def apply_rope(x: Array, cos: Array, sin: Array) -> Array:
    """Rotates the first R numbers of x [B, T, ..., H] in the half-split form of the hub's checkpoints: (x1, x2) are the
    halves of these R."""
    if (size := 2 * cos.shape[-1]) < x.shape[-1]:
        return jnp.concatenate([apply_rope(x[..., :size], cos, sin), x[..., size:]], axis=-1)
    cos, sin = (jnp.expand_dims(a, axis=tuple(range(2, x.ndim - 1))) for a in (cos, sin))
    x1, x2 = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x.dtype)


def apply(module: nn.Module, params: dict, *args: Any, method: str = "__call__") -> Any:
    """`module.<method>(*args)` with `params`, without linen's union of return types."""
    return module.apply({"params": params}, *args, method=method)


def promoted(x: Array, kernel: Any, bias: Array | None, *, dtype: Any) -> tuple[Array, Any, Array | None]:
    """x, kernel and bias in `dtype`, to be a dense layer's `promote_dtype`; a quantized kernel stays so, for
    `product`."""
    if not quantization.is_quantized(kernel):
        return promote_dtype(x, kernel, bias, dtype=dtype)  # pyrefly: ignore
    x, bias = promote_dtype(x, bias, dtype=dtype)  # pyrefly: ignore
    return x, kernel, bias


def product(x: Array, kernel: Any, dims: Any, precision: Any = None) -> Array:
    """`jax.lax.dot_general` of x's last axes with the kernel's first, to be a dense layer's `dot_general`.

    A quantized kernel, which has no gradient, is made whole first.

    The kernel's gradient is x^T dy and not JAX's (dy^T x)^T, for which a CPU first transposes dy, in a feed-forward
    block several times as wide as x: a seventh of a decoder's time.
    """
    return _product(len(dims[0][0]), precision, x, quantization.dequantized(kernel, x.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _product(contracted: int, precision: Any, x: Array, kernel: Array) -> Array:
    """x [*rows, *contracted], kernel [*contracted, *features] -> [*rows, *features]."""
    return jnp.tensordot(x, kernel, contracted, precision=precision)


def _product_gradients(contracted: int, precision: Any, kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = kept
    rows = tuple(range(x.ndim - contracted))
    features = tuple(range(len(rows), dy.ndim)), tuple(range(contracted, kernel.ndim))
    dx = jax.lax.dot_general(dy, kernel, (features, ((), ())), precision)
    return dx, jax.lax.dot_general(x, dy, ((rows, rows), ((), ())), precision)


_product.defvjp(lambda n, precision, x, kernel: (_product(n, precision, x, kernel), (x, kernel)), _product_gradients)


def _sum_of_rows(x: Array, features: int) -> Array:
    """x [*rows, *features] -> float32 [*features]. On a CPU as a product with ones: XLA's own sum over leading axes
    takes up to 25 times as long there."""
    rows = tuple(range(x.ndim - features))

    def product_with_ones(x: Array) -> Array:
        ones = jnp.ones(x.shape[: len(rows)], x.dtype)
        return jax.lax.dot_general(ones, x, ((rows, rows), ((), ())), "highest", jnp.float32)

    return jax.lax.platform_dependent(x, cpu=product_with_ones, default=lambda x: x.sum(rows, jnp.float32))


@jax.custom_vjp
def _add_bias(x: Array, bias: Array) -> Array:
    """x [*rows, *features] + bias [*features]."""
    return x + bias


def _add_bias_gradients(bias: Array, dy: Array) -> tuple[Array, Array]:
    return dy, _sum_of_rows(dy, bias.ndim).astype(bias.dtype)


_add_bias.defvjp(lambda x, bias: (x + bias, bias), _add_bias_gradients)


class Dense(nn.DenseGeneral):
    """flax's DenseGeneral, with gradients of kernel and bias that are faster on CPUs."""

    use_bias: bool = False  # of DenseGeneral, which would add one too
    dot_general: Any = product

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        out = super().__call__(inputs)
        count = 1 if isinstance(self.features, int) else len(self.features)
        bias = self.param("bias", self.bias_init, out.shape[-count:], self.param_dtype)
        return _add_bias(out, bias.astype(out.dtype))


@jax.custom_vjp
def _scaled(x: Array, scale: Array) -> Array:
    """x [*rows, D] * scale [D]."""
    return x * scale


def _scaled_gradients(kept: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, scale = kept
    return dy * scale, _sum_of_rows(dy * x, 1).astype(scale.dtype)


_scaled.defvjp(lambda x, scale: (x * scale, (x, scale)), _scaled_gradients)


class RMSNorm(nn.Module):
    """x / rms(x) * scale over the last axis, computed in float32; the gradient of scale faster on CPUs. zero_centered:
    times 1 + scale."""

    eps: float
    dtype: jnp.dtype
    zero_centered: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.zeros if self.zero_centered else nn.initializers.ones
        scale = self.param("scale", init, (x.shape[-1],)).astype(jnp.float32)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.eps)
        return _scaled(x, 1 + scale if self.zero_centered else scale).astype(self.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * scale + bias over the last axis, in float32; as flax's, and the gradients of
    scale and bias faster on CPUs."""

    eps: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x = x.astype(jnp.float32)
        centred = x - x.mean(-1, keepdims=True)
        normal = centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + self.eps)
        scaled = _scaled(normal, scale.astype(jnp.float32))
        return _add_bias(scaled, bias.astype(jnp.float32)).astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation (Hu et al., 2021): to each target's kernel W [in, out], alpha / rank * down up is added, of
    down [in, rank] and up [rank, out].

    targets: of a decoder block's query, key, value, out, gate, up and down.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = ("query", "key", "value", "out", "gate", "up", "down")

    def __post_init__(self):
        known = LoraConfig.targets
        check_range(self, "lora", "rank", least=1)
        check_range(self, "lora", "alpha", above=0)
        if unknown := [name for name in self.targets if name not in known]:
            raise ValueError(f"lora.targets: {unknown[0]!r}, expected some of {', '.join(known)}")


class Lora(nn.Module):
    """What LoRA adds to a dense layer's output; nothing until it has learnt, since `up` starts at zero."""

    config: LoraConfig
    features: tuple[int, ...]
    axis: tuple[int, ...]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        low = nn.DenseGeneral(self.config.rank, axis=self.axis, use_bias=False, dtype=self.dtype, name="down")(x)
        zeros = nn.initializers.zeros
        up = nn.DenseGeneral(self.features, use_bias=False, dtype=self.dtype, kernel_init=zeros, name="up")
        return self.config.alpha / self.config.rank * up(low)


@partial(jax.jit, static_argnums=0)
def _merged(config: LoraConfig, kernel: Any, down: Array, up: Array) -> Array:
    """kernel [L, *inputs, *outputs], down [L, *inputs, rank], up [L, rank, *outputs] -> as the kernel."""
    kernel = quantization.dequantized(kernel)
    change = jax.vmap(lambda a, b: jnp.tensordot(a, b, 1))(down.astype(jnp.float32), up.astype(jnp.float32))
    return (kernel.astype(jnp.float32) + config.alpha / config.rank * change).astype(kernel.dtype)


def merge_lora(config: LoraConfig, params: dict, keep: Callable[[Array], Array] = lambda x: x) -> dict:
    """A decoder's parameters, its blocks stacked, with what LoRA adds in the kernels; quantized ones are whole again.

    keep: takes each kernel before the next is made, such as to the host's memory.
    """
    blocks = params["blocks"]
    merged = {name: dict(value) for name, value in blocks.items() if not name.endswith("_lora")}
    for name, value in merged.items():
        if name in config.targets:
            down, up = (blocks[f"{name}_lora"][half]["kernel"] for half in ("down", "up"))
            value["kernel"] = keep(_merged(config, value["kernel"], down, up))
        elif quantization.is_quantized(value.get("kernel")):
            value["kernel"] = keep(quantization.dequantized(value["kernel"]))
    return {**params, "blocks": merged}


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

    remat: one of REMAT. For the backward pass "none" keeps all activations, "names" those of `SAVED`, "full" the
    blocks' inputs alone; the rest is computed again.
    """
    if remat != "none":
        policy = jax.checkpoint_policies.save_only_these_names(*SAVED) if remat == "names" else None
        block = nn.remat(block, prevent_cse=False, policy=policy)
    return nn.scan(
        block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=in_axes, out_axes=0, length=length
    )


def unit(x: Array, eps: float = 1e-12) -> Array:
    """x / |x| over the last axis in float32; a zero vector stays zero and its gradient stays finite."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), eps))
