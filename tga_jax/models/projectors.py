"""Projectors: from a picture's vision features to the image tokens that the decoder reads.

A config names one by its kind, with the fields that this kind has, `{"kind": "resampler", "queries": 64, ...}`. A
projector of your own is one class in a module that Python can import: inherit `Projector`, write the methods below, and
name the class, `{"kind": "my_lab.projectors:Mine", ...}`. Checkpoints keep the name, so that they load where the module
can be imported.

Dimension letters: P features of a picture, C their width, Q image tokens, D hidden size of the decoder, H width within.
"""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from tga_jax.config import find_class
from tga_jax.models import layers

Array = jax.Array

# A config's `kind` -> where the class is.
KINDS = {
    "linear": "tga_jax.models.projectors:Linear",
    "mlp2x_gelu": "tga_jax.models.projectors:Mlp2xGelu",
    "norm_mlp2x_gelu": "tga_jax.models.projectors:NormMlp2xGelu",
    "resampler": "tga_jax.models.projectors:Resampler",
}


class Products(NamedTuple):
    """Multiplications that a projector needs for one picture.

    first: with parameters whose input needs no gradient, because nothing below it learns; rest: with other parameters;
    attention: of two activations.
    """

    first: int = 0
    rest: int = 0
    attention: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Projector(abc.ABC):
    kind: str = ""  # by which a config names the class
    last: ClassVar[str]  # the name of the module's last layer, which has a kernel and a bias

    def __post_init__(self):
        if not self.kind:
            object.__setattr__(self, "kind", f"{type(self).__module__}:{type(self).__qualname__}")

    @classmethod
    def of_kind(cls, kind: Any) -> tuple[str, type["Projector"]]:
        """(its name, the class) of a config's `kind`: one of `KINDS` or `module:Class`. Raises ValueError."""
        is_module = isinstance(kind, str) and kind.count(":") == 1 and ".py:" not in kind
        if not is_module and kind not in tuple(KINDS):
            known = ", ".join(KINDS)
            raise ValueError(f"kind: {kind!r}, expected {known} or module:Class; a checkpoint names no files")
        name, found = find_class(kind, cls, KINDS)
        if not hasattr(found, "last"):
            raise ValueError(f"kind: {name} lacks `last`, the name of its module's last layer")
        return name, found

    def on(self, out: int) -> Self:
        """The projector with all widths named, for a decoder of hidden size D = `out`."""
        return self

    def tokens(self, features: int) -> int:
        """Q, of P features."""
        return features

    @abc.abstractmethod
    def module(self, out: int, dtype: str) -> nn.Module:
        """Of features [..., P, C] it makes image tokens [..., Q, out], computed in `dtype`."""

    @abc.abstractmethod
    def products(self, features: int, width: int, out: int) -> Products:
        """features: P; width: C; out: D."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Projector):
    """One linear layer, each feature by itself."""

    kind: str = "linear"
    last = "linear_1"

    def module(self, out: int, dtype: str) -> nn.Module:
        return _Mlp((out,), False, dtype)

    def products(self, features: int, width: int, out: int) -> Products:
        return Products(first=features * width * out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Wide(Projector):
    """hidden: H; None: D. Raises ValueError for a size below 1."""

    hidden: int | None = None

    def __post_init__(self):
        super().__post_init__()
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"projector.{field.name}: {value}, expected at least 1")

    def on(self, out: int) -> Self:
        return dataclasses.replace(self, hidden=self.hidden or out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mlp2xGelu(_Wide):
    """Linear-GELU(exact)-Linear, each feature by itself: LLaVA-1.5's."""

    kind: str = "mlp2x_gelu"
    last = "linear_2"

    def module(self, out: int, dtype: str) -> nn.Module:
        return _Mlp((self.hidden or out, out), False, dtype)

    def products(self, features: int, width: int, out: int) -> Products:
        hidden = self.hidden or out
        return Products(first=features * width * hidden, rest=features * hidden * out)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormMlp2xGelu(Mlp2xGelu):
    """The same after a LayerNorm, InternVL's: for towers whose states are far from unit size."""

    kind: str = "norm_mlp2x_gelu"

    def module(self, out: int, dtype: str) -> nn.Module:
        return _Mlp((self.hidden or out, out), True, dtype)

    def products(self, features: int, width: int, out: int) -> Products:
        first, rest, _ = super().products(features, width, out)
        return Products(rest=first + rest)  # the norm has parameters


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resampler(_Wide):
    """Q learned queries that each read all features of a picture.

    Blocks of cross-attention and feed-forward (twice as wide), pre-norm, as in Flamingo's perceiver resampler (Alayrac
    et al., 2022), but with keys and values from the features alone, the same ones in every block. For towers whose
    single patches know little of the whole picture: a token-wise projector can say of a patch only what it knows.
    """

    queries: int  # Q
    num_layers: int
    num_heads: int
    kind: str = "resampler"
    last = "out"

    def tokens(self, features: int) -> int:
        return self.queries

    def on(self, out: int) -> Self:
        """Raises ValueError where the heads do not divide H."""
        made = super().on(out)
        if (made.hidden or 0) % self.num_heads:
            raise ValueError(f"projector.hidden: {made.hidden}, expected a multiple of num_heads, {self.num_heads}")
        return made

    def module(self, out: int, dtype: str) -> nn.Module:
        return _Resampler(self.on(out), out, dtype)

    def products(self, features: int, width: int, out: int) -> Products:
        q, hidden = self.queries, self.hidden or out
        block = q * 6 * hidden * hidden  # query, read, and up and down twice as wide
        # Its first layer is a norm with parameters, so that every product's input needs a gradient.
        weights = features * 2 * width * hidden + q * hidden * out + self.num_layers * block
        return Products(rest=weights, attention=self.num_layers * 2 * q * features * hidden)


class _Mlp(nn.Module):
    """Linear layers of these widths, with GELUs between them; norm: after a LayerNorm."""

    widths: tuple[int, ...]
    norm: bool
    dtype: str

    @nn.compact
    def __call__(self, features: Array) -> Array:
        x = layers.LayerNorm(dtype=jnp.dtype(self.dtype), name="norm")(features) if self.norm else features
        for i, width in enumerate(self.widths, 1):
            if i > 1:
                x = layers.ACTIVATIONS["gelu"](x)
            x = layers.Dense(width, dtype=self.dtype, name=f"linear_{i}")(x)
        return x


class _Resampler(nn.Module):
    config: Resampler
    out: int
    dtype: str

    @nn.compact
    def __call__(self, features: Array) -> Array:
        c, dtype = self.config, jnp.dtype(self.dtype)
        hidden = c.hidden or self.out
        heads = (c.num_heads, hidden // c.num_heads)

        def norm(name: str, x: Array) -> Array:
            return layers.LayerNorm(dtype=dtype, name=name)(x)

        features = norm("feature_norm", features)
        key = layers.Dense(heads, dtype=dtype, name="key")(features)
        value = layers.Dense(heads, dtype=dtype, name="value")(features)
        queries = self.param("queries", nn.initializers.normal(1.0), (c.queries, hidden)).astype(dtype)
        x = jnp.broadcast_to(queries, (*features.shape[:-2], c.queries, hidden))
        for i in range(c.num_layers):
            query = layers.Dense(heads, dtype=dtype, name=f"query_{i}")(norm(f"attention_norm_{i}", x))
            read = nn.dot_product_attention(query, key, value)
            x = x + layers.Dense(hidden, axis=(-2, -1), dtype=dtype, name=f"read_{i}")(read)
            h = layers.Dense(2 * hidden, dtype=dtype, name=f"up_{i}")(norm(f"mlp_norm_{i}", x))
            x = x + layers.Dense(hidden, dtype=dtype, name=f"down_{i}")(layers.ACTIVATIONS["gelu"](h))
        return layers.Dense(self.out, dtype=dtype, name="out")(norm("final_norm", x))
