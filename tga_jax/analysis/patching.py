"""Activation patching: which of a prompt's states, taken over from another run, bring a refusal.

A picture's prompt and its text twin (`llava.text_twin`: words in the picture's place) agree position by position. The
twin is refused; the picture is not. Where the twin's states, put in place of the picture's, turn the answer into a
refusal, there lies what the picture lacks (causal tracing; Meng et al., 2022, arXiv 2202.05262).

Dimension letters: L blocks, B samples, T positions, K key/value heads, H head size, D hidden, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tga_jax.data.batch import Batch
from tga_jax.inference.decode import Config, embed, language_model
from tga_jax.models import attention, layers, llama, llava

Array = jax.Array


def text_twins(pictures: Batch) -> Batch:
    """The prompts with the caption's words, repeated, in the picture's place."""
    tokens = llava.text_twin(pictures.tokens, pictures.image_mask, pictures.caption_tokens, pictures.caption_mask)
    nowhere = np.zeros_like(pictures.image_mask)
    return pictures._replace(tokens=np.asarray(tokens), image_mask=nowhere, images=None, image_features=None)


class Patch(NamedTuple):
    """What is taken over at each block and position; bool [L, B, T] each.

    residual: the block's input. key, value: what the block's attention reads there; positions where one of them is
    taken over go on reading their own run's, so that only what reads *them* changes.
    """

    residual: Array
    key: Array
    value: Array


@partial(jax.jit, static_argnums=0)
def patched(config: Config, params: dict, picture: Batch, twin: Batch, patch: Patch) -> Array:
    """Log-probabilities float32 [B, V] of the token after `picture`'s prompts, run with `twin`'s states where `patch`.

    Both batches have the same rows, lengths and positions.
    """
    c = language_model(config)
    block = llama.DecoderBlock(c, emit_states=False)
    positions = llama.positions(picture.valid)
    rope = layers.rope_angles(positions, c.head_dim, c.rope_theta, c.rope_scaling)
    causal = attention.causal_mask(positions, positions, picture.valid, c.sliding_window)

    def own(p: dict, x: Array) -> tuple[Array, tuple[Array, Array]]:
        """One block as it is: its output, and its keys and values [B, T, K, H]."""
        empty = jnp.zeros((*x.shape[:2], c.num_kv_heads, c.head_dim), c.dtype)
        x, (kv, _, _) = layers.apply(block, p, x, (empty, empty), rope, causal, 0, None)
        return x, kv

    def reading(p: dict, x: Array, kv: Sequence[Array], readers: Array) -> Array:
        """One block in which the positions `readers` [B, T] read these keys and values, the others their own."""
        cache = tuple(jnp.concatenate([a, jnp.zeros_like(a)], axis=1) for a in kv)  # its own are written behind
        mask = jnp.concatenate([causal & readers[..., None], causal & ~readers[..., None]], axis=-1)
        return layers.apply(block, p, x, cache, rope, mask, x.shape[1], None)[0]

    def body(carry: tuple[Array, Array], scanned: tuple[dict, Patch]):
        x, donor = carry
        p, where = scanned
        x = jnp.where(where.residual[..., None], donor, x)
        donor_next, donor_kv = own(p, donor)
        masks = (where.key[..., None, None], where.value[..., None, None])
        mixed = [jnp.where(m, d, o) for m, d, o in zip(masks, donor_kv, own(p, x)[1], strict=True)]
        return (reading(p, x, mixed, ~(where.key | where.value)), donor_next), None

    x, donor = (embed(config, params, b).astype(c.dtype) for b in (picture, twin))
    (x, _), _ = jax.lax.scan(body, (x, donor), (params["llm"]["blocks"], patch))
    last = jnp.take_along_axis(x, (picture.valid.sum(1) - 1)[:, None, None], axis=1)[:, 0]
    return jax.nn.log_softmax(layers.apply(llama.Decoder(c), params["llm"], last, method="lens"))


def refusal_curves(
    config: Config,
    params: dict,
    picture: Batch,
    twin: Batch,
    token_ids: Sequence[int],
    at: Sequence[int] | None = None,
) -> dict[str, list[float]]:
    """Share of prompts whose most likely next token is one of `token_ids`, by what is patched and at which block.

    At the picture's own positions: "residual" at block j, from which all later states of these positions follow, and so
    what attention reads there from j on; "key" and "value": one of these two alone, from block j to the last.
    "instruction": the residual at block j of all positions after the picture. at: the blocks j, None: all. Each list
    has an entry for each of them, and a last one for the run without any patch.
    """
    image = np.asarray(picture.image_mask)
    after = (np.cumsum(image, axis=1) == image.sum(1, keepdims=True)) & ~image & np.asarray(picture.valid)
    count = language_model(config).num_layers
    blocks = np.arange(count)[:, None, None]
    none = np.zeros((count, *image.shape), bool)

    def rate(patch: Mapping[str, np.ndarray]) -> float:
        fields = {"residual": none, "key": none, "value": none, **patch}
        best = np.argmax(np.asarray(patched(config, params, picture, twin, Patch(**fields))), axis=-1)
        return float(np.isin(best, np.asarray(token_ids)).mean())

    def curves(j: int) -> dict[str, float]:
        once, onward = blocks == j, blocks >= j
        return {
            "residual": rate({"residual": once & image}),
            "key": rate({"key": onward & image}),
            "value": rate({"value": onward & image}),
            "instruction": rate({"residual": once & after}),
        }

    found = [curves(j) for j in (range(count) if at is None else at)]
    unpatched = rate({})
    return {name: [*(shares[name] for shares in found), unpatched] for name in found[0]}


def read_from_twin(config: Config, params: dict, picture: Batch, twin: Batch, blocks: np.ndarray) -> Array:
    """Log-probabilities float32 [B, V]: at the `blocks` marked, bool [L], all else reads the twin's states in place of
    the picture's; the picture's own go on as they are, before, within and after.

    A residual put in the picture's place at one block would stay: all that its positions hold later follows from it, so
    a window of such patches could not be told from one that has no end. At all blocks it is the twin's run.
    """
    where = np.asarray(blocks)[:, None, None] & np.asarray(picture.image_mask)
    return patched(config, params, picture, twin, Patch(residual=np.zeros_like(where), key=where, value=where))  # pyright: ignore
