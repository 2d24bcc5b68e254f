"""What later trainings need of a picture, computed once by the frozen CLIP: vision features and embeddings."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from tga_jax.models import clip, layers, llava


def in_chunks(function: Callable[[Any], Any], rows: np.ndarray, size: int = 256) -> Any:
    """`function` over `rows` in chunks of one static size (the last one filled up), results joined on the host."""
    parts = []
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        filled = np.concatenate([chunk, np.repeat(chunk[-1:], size - len(chunk), axis=0)])
        count = len(chunk)
        parts.append(jax.tree.map(lambda x, n=count: np.asarray(x)[:n], function(filled)))
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def embed_images(config: llava.LlavaConfig, params: dict, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, I, I, 3] -> (vision features float16 [N, P, D] as the projector reads them, unit embeddings [N, E])."""

    @jax.jit
    def run(chunk):
        features = llava.image_features(config, params, chunk[:, None])[:, 0]
        pixels = llava.normalize_pixels(chunk)
        embeddings = layers.apply(clip.Clip(config.clip), params, pixels, method="embed_images")
        return features.astype("float16"), embeddings

    return in_chunks(run, images)


def embed_texts(config: llava.LlavaConfig, params: dict, tokens: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """int32 tokens [N, T], each with an end token -> unit embeddings [N, E]."""
    embed = partial(layers.apply, clip.Clip(config.clip), params, method="embed_texts")
    return in_chunks(jax.jit(embed), np.asarray(tokens))
