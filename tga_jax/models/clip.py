"""CLIP: a vision and a text transformer whose pooled outputs are compared by cosine (Radford et al., 2021). Of SigLIP
(Zhai et al., 2023) the vision transformer alone, for LLaVA.

Dimension letters: B batch, I image height = width, P patches, T tokens, D hidden, E shared embedding.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from tga_jax.models import attention, layers

Array = jax.Array
Layers = int | tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_size: int
    activation: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    dtype: str = "float32"
    attention: str = "xla"  # one of `attention.IMPLEMENTATIONS`; the text tower knows "xla" alone


@dataclasses.dataclass(frozen=True)
class VisionConfig(TowerConfig):
    """The tower, and how pictures come to it.

    has_cls, pre_norm, patch_bias: CLIP has a CLS token and a norm before the first block, and no bias in the
    convolution of patches; SigLIP the opposite of all three. pixel_mean, pixel_std: of pixels in 0..1; resample: how
    they were resized, "bicubic" or "bilinear".
    """

    image_size: int = 224
    patch_size: int = 32
    has_cls: bool = True
    pre_norm: bool = True
    patch_bias: bool = False
    pixel_mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    pixel_std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resample: str = "bicubic"

    @property
    def num_patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2


@dataclasses.dataclass(frozen=True)
class TextConfig(TowerConfig):
    """eos_token_id: of the token whose state stands for a text; None: the largest id of a text, as in early files."""

    vocab_size: int = 49408
    context_length: int = 77
    eos_token_id: int | None = 49407


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Both towers; a LLaVA checkpoint has the vision tower alone, and no shared embedding."""

    vision: VisionConfig
    text: TextConfig | None
    embed_size: int | None


class EncoderBlock(nn.Module):
    """Pre-norm transformer block; attends to everything that `mask` allows."""

    config: TowerConfig

    @nn.compact
    def __call__(self, x: Array, mask: Array | None) -> tuple[Array, None]:
        c = self.config
        dtype = jnp.dtype(c.dtype)
        head_dim = c.hidden_size // c.num_heads

        def norm(name: str):
            return layers.LayerNorm(c.layer_norm_eps, dtype, name=name)

        h = norm("attention_norm")(x)
        q, k, v = (layers.Dense((c.num_heads, head_dim), dtype=dtype, name=n)(h) for n in ("query", "key", "value"))
        h = attention.attend(q[:, :, :, None], k, v, mask, c.attention)[:, :, :, 0]
        x = x + layers.Dense(c.hidden_size, axis=(-2, -1), dtype=dtype, name="out")(h)
        h = layers.Dense(c.mlp_size, dtype=dtype, name="up")(norm("mlp_norm")(x))
        x = x + layers.Dense(c.hidden_size, dtype=dtype, name="down")(layers.ACTIVATIONS[c.activation](h))
        return layers.by_rows(x), None


class VisionTower(nn.Module):
    config: VisionConfig

    @nn.compact
    def __call__(self, images: Array) -> tuple[Array, Array]:
        """Normalised images [B, I, I, 3] -> states after the last block [B, 1+P, D], and the same normalised, of which
        the first one, of CLS, stands for the image. Without CLS [B, P, D]."""
        c = self.config
        dtype = jnp.dtype(c.dtype)
        size = (c.patch_size, c.patch_size)
        patch = nn.Conv(
            c.hidden_size, size, strides=size, padding="VALID", use_bias=c.patch_bias, dtype=dtype, name="patch"
        )
        x = patch(images.astype(dtype))  # pixels beyond the last whole patch are left out
        x = x.reshape(x.shape[0], -1, c.hidden_size)
        init = nn.initializers.normal(c.hidden_size**-0.5)
        if c.has_cls:
            cls = self.param("cls", init, (c.hidden_size,)).astype(dtype)
            x = jnp.concatenate([jnp.broadcast_to(cls, (x.shape[0], 1, c.hidden_size)), x], axis=1)
        x = x + self.param("positions", init, (c.has_cls + c.num_patches, c.hidden_size)).astype(dtype)
        if c.pre_norm:
            x = layers.LayerNorm(c.layer_norm_eps, dtype, name="pre_norm")(x)
        if c.num_layers:
            x, _ = layers.block_stack(EncoderBlock, c.num_layers, (nn.broadcast,))(c, name="blocks")(x, None)
        return x, layers.LayerNorm(c.layer_norm_eps, dtype, name="post_norm")(x)


class TextTower(nn.Module):
    config: TextConfig

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        """int32 tokens [B, T] (right-padded after the end token) -> state at the first end token [B, D].

        A row without an end token gives the state of its first token, which is that of every other such row: as in
        transformers, whoever makes the rows sees to it (`inference.embed.text_tokens`).
        """
        c = self.config
        dtype = jnp.dtype(c.dtype)
        length = tokens.shape[1]
        x = nn.Embed(c.vocab_size, c.hidden_size, dtype=dtype, name="embed")(tokens)
        positions = self.param("positions", nn.initializers.normal(0.01), (c.context_length, c.hidden_size))
        x = x + positions[:length].astype(dtype)
        mask = jnp.tril(jnp.ones((1, length, length), bool))
        x, _ = layers.block_stack(EncoderBlock, c.num_layers, (nn.broadcast,))(c, name="blocks")(x, mask)
        x = layers.LayerNorm(c.layer_norm_eps, dtype, name="final_norm")(x)
        end = jnp.argmax(tokens if c.eos_token_id is None else tokens == c.eos_token_id, axis=1)
        return jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]


class Clip(nn.Module):
    config: ClipConfig

    def setup(self):
        if self.config.text is None or self.config.embed_size is None or not self.config.vision.has_cls:
            raise ValueError("clip: a vision tower alone, expected both towers")
        self.vision = VisionTower(self.config.vision)
        self.text = TextTower(self.config.text)
        self.vision_projection = nn.Dense(self.config.embed_size, use_bias=False)
        self.text_projection = nn.Dense(self.config.embed_size, use_bias=False)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(2.6592), ())

    def __call__(self, images: Array, tokens: Array) -> tuple[Array, Array, Array]:
        """Unit embeddings of images and texts [B, E] each, and exp(logit scale), at most 100."""
        return self.embed_images(images), self.embed_texts(tokens), self._scale()

    def _scale(self) -> Array:
        return jnp.exp(jnp.minimum(self.logit_scale, jnp.log(100.0)))

    def embed_images(self, images: Array) -> Array:
        return layers.unit(self.vision_projection(self.vision(images)[1][:, 0]))

    def with_patches(self, images: Array, tokens: Array) -> tuple[Array, Array, Array]:
        """As `__call__`, with the unit embeddings of CLS and of every patch in the image's place, [B, 1+P, E]."""
        every = layers.unit(self.vision_projection(self.vision(images)[1]))
        return every, self.embed_texts(tokens), self._scale()

    def embed_texts(self, tokens: Array) -> Array:
        return layers.unit(self.text_projection(self.text(tokens)))


def init(config: ClipConfig, key: Array) -> dict:
    """Random parameters of both towers, or of the vision tower alone."""
    v = config.vision
    images = jnp.zeros((1, v.image_size, v.image_size, 3))
    if config.text is None:
        return {"vision": VisionTower(v).init(key, images)["params"]}
    made = Clip(config).init(key, images, jnp.zeros((1, 2), jnp.int32))
    return dict(made["params"])


def normalized(config: VisionConfig, images: Array) -> Array:
    """uint8 [..., 3] -> float32 with the tower's mean and deviation."""
    pixels = images.astype(jnp.float32) / 255.0
    return (pixels - jnp.array(config.pixel_mean)) / jnp.array(config.pixel_std)


def blocks_below(config: VisionConfig, layer: Layers) -> tuple[int, ...]:
    """How many blocks lie below each of the layers. Raises ValueError for a layer that the tower lacks."""
    count = config.num_layers
    found = layer if isinstance(layer, tuple) else (layer,)
    if not found or any(not -1 - count <= one <= count for one in found):
        raise ValueError(f"feature_layer: {layer}, expected from {-1 - count} to {count}")
    return tuple(one if one >= 0 else count + 1 + one for one in found)


def vision_features(config: VisionConfig, params: dict, images: Array, layer: Layers, select: str) -> Array:
    """Hidden states of the vision tower at `layer` (0: before the first block; negative counts from the last block), or
    at several, joined along their width in the order given.

    images: normalised [B, I, I, 3]; params: the vision tower's own tree; select: "patch" drops CLS, "full" keeps it,
    where there is one. Returns [B, P or 1+P, D], D of all layers together. Blocks above them are not run.
    """
    counts = blocks_below(config, layer)
    done = min(counts)
    tower = VisionTower(dataclasses.replace(config, num_layers=done))
    x, _ = layers.apply(tower, layers.keep_blocks(params, done), images)
    found = {done: x}
    for count in sorted({*counts} - {done}):
        some = jax.tree.map(lambda p, begin=done, end=count: p[begin:end], params["blocks"])
        x, _ = layers.apply(layers.block_stack(EncoderBlock, count - done, (nn.broadcast,))(config), some, x, None)
        found[count], done = x, count
    states = jnp.concatenate([found[count] for count in counts], axis=-1)
    if select not in ("patch", "full"):
        raise ValueError(f"feature_select: {select!r}, expected 'patch' or 'full'")
    return states[:, 1:] if select == "patch" and config.has_cls else states
