"""How like words a picture's tokens are: measures by layer, from the states of pictures and of their text twins.

A twin is the same prompt with the caption's words, repeated, in the picture's place (`llava.text_twin`), so that
token p of the picture stands beside word p. NumPy in, lists of L + 1 numbers out; layer 0 is the embedding output.

Dimension letters: L decoder blocks, B samples, P image tokens, D hidden.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from tga_jax.data.batch import Batch
from tga_jax.inference.decode import Config, embed, language_model
from tga_jax.models import llama, llava


@partial(jax.jit, static_argnames=("config", "count"))
def token_states(config: Config, params: dict, batch: Batch, where: jax.Array, *, count: int) -> jax.Array:
    """States [L+1, B, P, D] at the `count` positions of each row that `where` bool [B, T] marks, in their order."""
    x = embed(config, params, batch)
    states = llama.bound(language_model(config), params["llm"], emit_states=True)(
        x, llama.positions(batch.valid), batch.valid
    ).states
    index = llava.marked(where, count)
    return jnp.take_along_axis(states, index[None, :, :, None], axis=2)


@partial(jax.jit, static_argnames=("config", "count"))
def nearest_words(config: Config, params: dict, batch: Batch, *, count: int) -> tuple[jax.Array, jax.Array]:
    """Of each image token as the decoder receives it, the word whose embedding is nearest: int32 [B, P] ids, and their
    cosines float32 [B, P]. count: P, the image tokens of a row."""
    x = embed(config, params, batch).astype(jnp.float32)
    x = jnp.take_along_axis(x, llava.marked(batch.image_mask, count)[..., None], axis=1)
    table = params["llm"]["embed"]["embedding"].astype(jnp.float32)  # [V, D]
    x, table = (a / jnp.maximum(jnp.linalg.norm(a, axis=-1, keepdims=True), 1e-12) for a in (x, table))
    cosines = jnp.einsum("bpd,vd->bpv", x, table)
    return cosines.argmax(-1).astype(jnp.int32), cosines.max(-1)


def _centred_unit(x: np.ndarray, over: tuple[int, ...] = (0,)) -> np.ndarray:
    """x [B, ..., D] less its mean over these axes, as unit vectors; a zero vector stays zero."""
    x = x - x.mean(over, keepdims=True)
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def retrieval_accuracy(image: np.ndarray, text: np.ndarray) -> dict[str, list[float]]:
    """How often a picture's own caption is the nearest of all B: from pooled states, and token by token.

    image, text: [L+1, B, P, D]. "pooled": by the centred cosine of the means over P. "token": by the mean over p of
    the centred cosines of token p and word p. Centring takes off the mean over the samples. Chance is 1 / B.
    """
    own = np.arange(image.shape[1])
    found: dict[str, list[float]] = {"pooled": [], "token": []}
    for i, t in zip(image, text, strict=True):
        pooled = _centred_unit(i.mean(1)) @ _centred_unit(t.mean(1)).T
        token = np.einsum("BPD,CPD->BC", _centred_unit(i), _centred_unit(t)) / i.shape[1]
        for name, scores in (("pooled", pooled), ("token", token)):
            found[name].append(float((scores.argmax(1) == own).mean()))
    return found


def word_share(image: np.ndarray, text: np.ndarray, is_word: np.ndarray) -> list[float]:
    """Share of image tokens whose nearest word of the own caption, by centred cosine, is one that is marked.

    image, text: [L+1, B, P, D]; is_word bool [B, P], for instance the harmful words of the twin.
    """
    shares = []
    for i, t in zip(image, text, strict=True):
        # One mean for all positions: words are told apart by what they are and not by where they stand.
        nearest = np.einsum("BPD,BQD->BPQ", _centred_unit(i, (0, 1)), _centred_unit(t, (0, 1))).argmax(-1)
        shares.append(float(np.take_along_axis(is_word, nearest, axis=1).mean()))
    return shares


def norm_ratio(image: np.ndarray, text: np.ndarray) -> list[float]:
    """Mean norm of the image tokens' states over that of the words'. image, text: [L+1, B, P, D]."""
    return [
        float(np.linalg.norm(i, axis=-1).mean() / max(np.linalg.norm(t, axis=-1).mean(), 1e-12))
        for i, t in zip(image, text, strict=True)
    ]


def modality_probe(image: np.ndarray, text: np.ndarray, seed: int, ridge: float = 1e-2) -> list[float]:
    """Held-out accuracy of a linear probe that tells a picture's token from a word; 0.5 means it cannot.

    Ridge regression on standardised states to -1 (word) and 1 (picture); half of the samples, drawn by `seed`, train
    it and the others test it. image, text: [L+1, B, P, D].
    """
    order = np.random.default_rng(seed).permutation(image.shape[1])
    halves = order[: len(order) // 2], order[len(order) // 2 :]
    accuracies = []
    for i, t in zip(image, text, strict=True):
        (x, y), (x_test, y_test) = (
            (
                np.concatenate([a[half].reshape(-1, a.shape[-1]) for a in (t, i)]).astype(np.float64),
                np.repeat([-1.0, 1.0], len(half) * i.shape[1]),
            )
            for half in halves
        )
        mean, scale = x.mean(0), np.maximum(x.std(0), 1e-12)
        x, x_test = (x - mean) / scale, (x_test - mean) / scale
        weights = np.linalg.solve(x.T @ x + ridge * len(x) * np.eye(x.shape[1]), x.T @ y)
        accuracies.append(float((np.sign(x_test @ weights) == y_test).mean()))
    return accuracies
