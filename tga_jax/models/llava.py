"""LLaVA (Liu et al., 2023): a decoder reads projected CLIP features in place of `<image>` tokens.

Dimension letters: B batch, M images per sample, P features per image, C their width, Q image tokens per image, T
positions, D hidden size of the decoder.
"""

import dataclasses
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from tga_jax.models import clip, layers, llama, projectors
from tga_jax.models.clip import Layers

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Tiles:
    """Pictures as a whole and, larger, in tiles: LLaVA-NeXT's "anyres".

    pinpoints: the grids' (height, width) in pixels, multiples of the tower's image size; most: as many tiles' worth of
    features at most, LLaVA-OneVision's, or None: all.
    """

    pinpoints: tuple[tuple[int, int], ...]
    most: int | None = None


@dataclasses.dataclass(frozen=True)
class LlavaConfig:
    clip: clip.ClipConfig
    llm: llama.LlamaConfig
    projector: projectors.Projector = dataclasses.field(default_factory=projectors.Mlp2xGelu)
    # Of the vision tower; -2 is the output of the last block but one. Several are joined along their width.
    feature_layer: Layers = -2
    feature_select: str = "patch"  # "patch" drops CLS, "full" keeps it
    tiles: Tiles | None = None  # None: one picture, one image of the tower

    @property
    def image_tokens(self) -> int:
        """Q; with tiles, of each of them."""
        return self.projector.tokens(self.features)

    @property
    def feature_width(self) -> int:
        """C."""
        count = len(self.feature_layer) if isinstance(self.feature_layer, tuple) else 1
        return count * self.clip.vision.hidden_size

    @property
    def features(self) -> int:
        """P."""
        vision = self.clip.vision
        return vision.num_patches + (self.feature_select == "full" and vision.has_cls)


def projector(config: LlavaConfig) -> nn.Module:
    """Of vision features [..., P, C] it makes image tokens [..., Q, D]."""
    return config.projector.module(config.llm.hidden_size, config.llm.dtype)


def init(config: LlavaConfig, key: Array, parts: tuple[str, ...] = ("clip", "projector", "llm")) -> dict:
    """Random parameters of the named parts; a part's values depend on `key` and its name, not on the other parts."""
    tokens, width = jnp.zeros((1, 2), jnp.int32), config.feature_width

    def make_projector(k: Array) -> dict:
        made = dict(projector(config).init(k, jnp.zeros((1, config.features, width)))["params"])
        if config.tiles is not None:
            d = config.llm.hidden_size
            made["newline"] = jax.random.normal(jax.random.fold_in(k, 1), (d,)) * d**-0.5
        return made

    makers = {
        "clip": lambda k: clip.init(config.clip, k),
        "projector": make_projector,
        "llm": lambda k: llama.Decoder(config.llm).init(k, tokens, tokens == 0, method="from_tokens")["params"],
    }
    return {part: makers[part](jax.random.fold_in(key, i)) for i, part in enumerate(makers) if part in parts}


def image_features(config: LlavaConfig, clip_params: dict, images: Array) -> Array:
    """uint8 images [B, M, I, I, 3] -> vision features [B, M, P, C]; the tower is frozen."""
    size = config.clip.vision.image_size
    chex.assert_shape(images, (None, None, size, size, 3))
    flat = clip.normalized(config.clip.vision, images.reshape(-1, *images.shape[2:]))
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


def arranged(tiles: Array, newline: Array, index: Array, weight: Array) -> Array:
    """[B, T, D]: image embeddings where they stand in the sequence.

    tiles: [B, M, Q, D], of all tiles of all of a row's pictures; newline: [D], what ends each row of a grid; index: int
    [B, T, S] into the M Q of them, below 0 for the newline; weight: [B, T, S], of each of the S (`data.tiles`).
    """
    flat = tiles.reshape(tiles.shape[0], -1, tiles.shape[-1])
    flat = jnp.concatenate([flat, jnp.broadcast_to(newline, (len(flat), 1, len(newline))).astype(flat.dtype)], axis=1)
    index = jnp.where(index < 0, flat.shape[1] - 1, index)
    found = 0
    for s in range(index.shape[-1]):
        found += weight[..., s, None].astype(flat.dtype) * jnp.take_along_axis(flat, index[..., s, None], axis=1)
    return jnp.asarray(found)


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


def embed(
    config: LlavaConfig,
    params: dict,
    tokens: Array,
    image_mask: Array,
    features: Array | None,
    places: tuple[Any, Any] | None = None,
) -> Array:
    """Input embeddings [B, T, D] of a sequence; features: vision features [B, M, P, C], None for text only; places:
    (index, weight) as `arranged` takes them, of a model with tiles.

    Image embeddings enter as the projector gives them, behind the scale of a decoder that scales its words (Gemma): so
    do those of PaliGemma and Gemma 3 in transformers.
    """
    x = layers.apply(llama.Decoder(config.llm), params["llm"], tokens, method="embed")
    if features is None:
        return x
    found = layers.apply(projector(config), params["projector"], features)
    if config.tiles is None:
        return merge(x, found, image_mask)
    if places is None:
        raise ValueError("a model with tiles, expected the places of their features")
    found = arranged(found, params["projector"]["newline"], *places)
    return jnp.where(image_mask[..., None], found.astype(x.dtype), x)
