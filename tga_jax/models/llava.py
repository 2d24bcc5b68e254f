"""LLaVA (Liu et al., 2023): a decoder reads projected CLIP features in place of `<image>` tokens.

Dimension letters: B batch, M images per sample, P features per image, C their width, Q image tokens per image (P, but
for the resampler), T positions, D hidden size of the decoder.
"""

import dataclasses

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from tga_jax.models import clip, layers, llama

Array = jax.Array

# OpenAI's CLIP normalisation of pixels in 0..1.
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclasses.dataclass(frozen=True)
class ResamplerConfig:
    queries: int  # Q
    num_layers: int
    num_heads: int


@dataclasses.dataclass(frozen=True)
class LlavaConfig:
    clip: clip.ClipConfig
    llm: llama.LlamaConfig
    projector: str | ResamplerConfig = "mlp2x_gelu"  # or another of PROJECTORS
    projector_hidden: int | None = None  # width inside the projector; None: the decoder's hidden size
    feature_layer: int = -2  # of the vision tower; -2 is the output of the last block but one
    feature_select: str = "patch"  # "patch" drops CLS, "full" keeps it

    @property
    def image_tokens(self) -> int:
        """Q."""
        if isinstance(self.projector, ResamplerConfig):
            return self.projector.queries
        return self.clip.vision.num_patches + (self.feature_select == "full")


PROJECTORS = ("linear", "mlp2x_gelu", "norm_mlp2x_gelu")


class Projector(nn.Module):
    """Vision features [..., P, C] -> the decoder's space [..., P, D], each feature by itself: "linear", "mlp2x_gelu"
    (Linear-GELU(exact)-Linear, LLaVA-1.5's) or "norm_mlp2x_gelu" (the same after a LayerNorm, InternVL's), for towers
    whose states are far from unit size."""

    kind: str
    hidden: int
    out: int
    dtype: str

    @nn.compact
    def __call__(self, features: Array) -> Array:
        if self.kind == "linear":
            return layers.Dense(self.out, dtype=self.dtype, name="linear_1")(features)
        if self.kind not in PROJECTORS:
            raise ValueError(f"projector: {self.kind!r}, expected one of {', '.join(PROJECTORS)}")
        if self.kind == "norm_mlp2x_gelu":
            features = layers.LayerNorm(dtype=jnp.dtype(self.dtype), name="norm")(features)
        h = layers.ACTIVATIONS["gelu"](layers.Dense(self.hidden, dtype=self.dtype, name="linear_1")(features))
        return layers.Dense(self.out, dtype=self.dtype, name="linear_2")(h)


class Resampler(nn.Module):
    """Vision features [..., P, C] -> [..., Q, D]: Q learned queries that each read all features of a picture.

    Blocks of cross-attention and feed-forward (twice as wide), pre-norm, as in Flamingo's perceiver resampler (Alayrac
    et al., 2022), but with keys and values from the features alone, the same ones in every block. For towers whose
    single patches know little of the whole picture: a token-wise projector can say of a patch only what it knows.
    """

    config: ResamplerConfig
    hidden: int
    out: int
    dtype: str

    @nn.compact
    def __call__(self, features: Array) -> Array:
        c, dtype = self.config, jnp.dtype(self.dtype)
        heads = (c.num_heads, self.hidden // c.num_heads)

        def norm(name: str, x: Array) -> Array:
            return layers.LayerNorm(dtype=dtype, name=name)(x)

        features = norm("feature_norm", features)
        key = layers.Dense(heads, dtype=dtype, name="key")(features)
        value = layers.Dense(heads, dtype=dtype, name="value")(features)
        queries = self.param("queries", nn.initializers.normal(1.0), (c.queries, self.hidden)).astype(dtype)
        x = jnp.broadcast_to(queries, (*features.shape[:-2], c.queries, self.hidden))
        for i in range(c.num_layers):
            query = layers.Dense(heads, dtype=dtype, name=f"query_{i}")(norm(f"attention_norm_{i}", x))
            read = nn.dot_product_attention(query, key, value)
            x = x + layers.Dense(self.hidden, axis=(-2, -1), dtype=dtype, name=f"read_{i}")(read)
            h = layers.Dense(2 * self.hidden, dtype=dtype, name=f"up_{i}")(norm(f"mlp_norm_{i}", x))
            x = x + layers.Dense(self.hidden, dtype=dtype, name=f"down_{i}")(layers.ACTIVATIONS["gelu"](h))
        return layers.Dense(self.out, dtype=dtype, name="out")(norm("final_norm", x))


def projector(config: LlavaConfig) -> Projector | Resampler:
    d = config.llm.hidden_size
    if isinstance(config.projector, ResamplerConfig):
        return Resampler(config.projector, config.projector_hidden or d, d, config.llm.dtype)
    return Projector(config.projector, config.projector_hidden or d, d, config.llm.dtype)


def projector_out(config: LlavaConfig) -> str:
    """The name of the projector's last layer, which has a kernel and a bias."""
    if isinstance(config.projector, ResamplerConfig):
        return "out"
    return "linear_1" if config.projector == "linear" else "linear_2"


def init(config: LlavaConfig, key: Array, parts: tuple[str, ...] = ("clip", "projector", "llm")) -> dict:
    """Random parameters of the named parts; a part's values depend on `key` and its name, not on the other parts."""
    tokens = jnp.zeros((1, 2), jnp.int32)
    makers = {
        "clip": lambda k: clip.init(config.clip, k),
        "projector": lambda k: projector(config).init(k, jnp.zeros((1, 1, config.clip.vision.hidden_size)))["params"],
        "llm": lambda k: llama.Decoder(config.llm).init(k, tokens, tokens == 0, method="from_tokens")["params"],
    }
    return {part: makers[part](jax.random.fold_in(key, i)) for i, part in enumerate(makers) if part in parts}


def normalize_pixels(images: Array) -> Array:
    """uint8 [..., 3] -> float32 with CLIP's mean and deviation."""
    return (images.astype(jnp.float32) / 255.0 - jnp.array(PIXEL_MEAN)) / jnp.array(PIXEL_STD)


def image_features(config: LlavaConfig, clip_params: dict, images: Array) -> Array:
    """uint8 images [B, M, I, I, 3] -> vision features [B, M, P, C]; the tower is frozen."""
    size = config.clip.vision.image_size
    chex.assert_shape(images, (None, None, size, size, 3))
    flat = normalize_pixels(images.reshape(-1, *images.shape[2:]))
    features = clip.vision_features(
        config.clip.vision, clip_params["vision"], flat, config.feature_layer, config.feature_select
    )
    return jax.lax.stop_gradient(features.reshape(*images.shape[:2], *features.shape[1:]))


def merge(token_embeddings: Array, image_embeddings: Array, image_mask: Array) -> Array:
    """Puts image embeddings [B, M, Q, D], in order, where image_mask [B, T] is True in token embeddings [B, T, D].

    A row whose mask is all False keeps its text whatever its images hold. Worked row, P = 2: text `a b c d`, mask
    `0 1 1 0`, images `x y` -> `a x y d`.
    """
    chex.assert_rank([token_embeddings, image_embeddings], [3, 4])
    chex.assert_shape(image_mask, token_embeddings.shape[:2])
    flat = image_embeddings.reshape(image_embeddings.shape[0], -1, image_embeddings.shape[-1])
    order = jnp.clip(jnp.cumsum(image_mask, axis=1) - 1, 0, flat.shape[1] - 1)
    placed = jnp.take_along_axis(flat, order[..., None], axis=1)
    return jnp.where(image_mask[..., None], placed.astype(token_embeddings.dtype), token_embeddings)


def marked(mask: Array, count: int) -> Array:
    """int32 [B, count]: the first `count` positions that mask bool [B, T] marks, in order; a row with fewer gets others
    behind them. Worked row, count 2: `0 1 0 1 1` -> `1 3`."""
    return jnp.argsort(~mask, axis=1, stable=True)[:, :count]


LAYOUTS = ("repeated", "stretched")  # of a caption in a picture's place


def text_twin(
    tokens: Array, image_mask: Array, caption_tokens: Array, caption_mask: Array, layout: str = "repeated"
) -> Array:
    """int32 [B, T]: the sequence in words, the caption in the picture's place.

    layout: "repeated", again and again, so that it ends there: token p of P takes word (p - P) mod C; "stretched", each
    word said several times: token p takes word floor(p C / P). caption_tokens [B, 1 + C] start with the begin token,
    which is left out; a row without image or caption stays as it is. Worked row, caption `a b c`: tokens `s . . . . q`,
    mask `0 1 1 1 1 0` -> `s c a b c q`, stretched `s a a b c q`. Raises ValueError for another layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: {layout!r}, expected one of {', '.join(LAYOUTS)}")
    chex.assert_equal_shape([tokens, image_mask])
    chex.assert_equal_shape([caption_tokens, caption_mask])
    words, places = caption_mask.sum(1, keepdims=True), image_mask.sum(1, keepdims=True)  # C, P
    place = jnp.cumsum(image_mask, axis=1) - 1
    if layout == "repeated":
        index = jnp.mod(place - places, jnp.maximum(words, 1))
    else:
        index = place * words // jnp.maximum(places, 1)
    # Outside the image tokens the index is of no use, and may be out of bounds.
    index = 1 + jnp.clip(index, 0, jnp.maximum(words - 1, 0))
    return jnp.where(image_mask & (words > 0), jnp.take_along_axis(caption_tokens, index, axis=1), tokens)


def embed(config: LlavaConfig, params: dict, tokens: Array, image_mask: Array, features: Array | None) -> Array:
    """Input embeddings [B, T, D] of a sequence; features: vision features [B, M, P, C], None for text only.

    Image embeddings enter as the projector gives them, behind the scale of a decoder that scales its words (Gemma): so
    do those of PaliGemma and Gemma 3 in transformers.
    """
    x = layers.apply(llama.Decoder(config.llm), params["llm"], tokens, method="embed")
    if features is None:
        return x
    return merge(x, layers.apply(projector(config), params["projector"], features), image_mask)
