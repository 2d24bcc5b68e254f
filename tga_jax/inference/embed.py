"""CLIP's unit embeddings of many pictures and texts, in chunks of one static size.

Dimension letters: N pictures or texts, I image size, T tokens, P patches, D hidden size, E embedding.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from tga_jax.data.tokens import Vocabulary, padded
from tga_jax.errors import UserError
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
    pixels = clip.normalized(config.vision, images)
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


def _cut_ids(vocabulary: Vocabulary, texts: Sequence[str], length: int) -> list[list[int]]:
    """At most `length` ids of each text, what the tokenizer puts around it among them. Special tokens in it: text."""
    how = {"truncation": True, "max_length": length, "split_special_tokens": True}
    return vocabulary.read(list(texts), **how)["input_ids"]


def text_tokens(config: clip.TextConfig, vocabulary: Vocabulary, texts: Sequence[str]) -> np.ndarray:
    """int32 [N, T] of CLIP's text tower: every text cut so that its end token stays, then padded with end tokens.

    An end token is added where the tokenizer puts nothing after a text. Raises UserError naming a text that the tower
    would not read at its end, and a token without an embedding.
    """
    tokenizer, added = vocabulary.tokenizer, vocabulary.end
    wanted = config.eos_token_id
    if not added:
        if (end := tokenizer.eos_token_id) is None:
            raise UserError("the tokenizer puts no end token after a text and names none; CLIP reads a text there")
        added = (end,)
        rows = [[*row, end] for row in _cut_ids(vocabulary, texts, config.context_length - 1)]
    else:
        rows = _cut_ids(vocabulary, texts, config.context_length)
    end = max(added) if wanted is None else wanted
    for text, row in zip(texts, rows, strict=True):
        if max(row) >= config.vocab_size:
            name = tokenizer.convert_ids_to_tokens(max(row))
            raise UserError(f"{text[:50]!r}: token {max(row)} ({name}), expected at most {config.vocab_size - 1}")
        if end not in row or (wanted is None and max(row) > end):
            where = f"token {wanted}" if wanted is not None else f"the largest id, {max(row)}"
            ends = ", ".join(f"{i} ({tokenizer.convert_ids_to_tokens(i)})" for i in added)
            raise UserError(f"CLIP reads a text at {where}, and the tokenizer ends {text[:50]!r} with {ends}")
    return padded([np.array(row, np.int32) for row in rows], config.context_length, end)


def embed_texts(config: clip.ClipConfig, params: dict, tokens: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """int32 tokens [N, T], each with an end token -> float32 [N, E]. params: of both towers."""
    return in_chunks(partial(_texts, config, params), np.asarray(tokens, np.int32))


def features_and_embeddings(
    config: llava.LlavaConfig, params: dict, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """As `embed_images`, and with it, of the same pass, the vision features float16 [N, P, D] for the projector."""
    return in_chunks(partial(_features_and_embeddings, config, params), images)
