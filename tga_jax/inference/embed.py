"""CLIP's unit embeddings of many pictures and texts, in chunks of one static size.

Dimension letters: N pictures or texts, I image size, T tokens, P patches, D hidden size, E embedding.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from tga_jax.models import clip, layers, llava

Array = jax.Array


def in_chunks(function: Callable[[Any], Any], rows: np.ndarray, size: int = 256) -> Any:
    """`function` over `rows` in chunks of one static size (the last one filled up), results joined on the host.

    Fewer rows than `size` are a chunk of their own size.
    """
    parts, size = [], min(size, len(rows))
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        filled = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])
        count = len(chunk)
        parts.append(jax.tree.map(lambda x, n=count: np.asarray(x)[:n], function(filled)))
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def _images(config: clip.ClipConfig, params: dict, images: Array) -> Array:
    pixels = llava.normalize_pixels(images)
    return layers.apply(clip.Clip(config), params, pixels, method="embed_images").astype("float32")


@partial(jax.jit, static_argnames="config")
def _texts(config: clip.ClipConfig, params: dict, tokens: Array) -> Array:
    return layers.apply(clip.Clip(config), params, tokens, method="embed_texts").astype("float32")


@partial(jax.jit, static_argnames="config")
def _features_and_embeddings(config: llava.LlavaConfig, params: dict, images: Array) -> tuple[Array, Array]:
    features = llava.image_features(config, params, images[:, None])[:, 0]
    return features.astype("float16"), _images(config.clip, params, images)


_embed_images = jax.jit(_images, static_argnames="config")


def embed_images(config: clip.ClipConfig, params: dict, images: np.ndarray) -> np.ndarray:
    """uint8 [N, I, I, 3] -> float32 [N, E]. params: of both towers."""
    return in_chunks(partial(_embed_images, config, params), images)


def embed_texts(config: clip.ClipConfig, params: dict, tokens: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """int32 tokens [N, T], each with an end token -> float32 [N, E]. params: of both towers."""
    return in_chunks(partial(_texts, config, params), np.asarray(tokens, np.int32))


def features_and_embeddings(
    config: llava.LlavaConfig, params: dict, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `embed_images`, and with it, of the same pass, the vision features float16 [N, P, D] for the projector."""
    return in_chunks(partial(_features_and_embeddings, config, params), images)
