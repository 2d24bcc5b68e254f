"""Activation patching: which of a prompt's states, taken over from another run, bring a refusal.

A picture's prompt and its text twin (`llava.text_twin`: words in the picture's place) agree position by position. The
twin is refused; the picture is not. Where the twin's states, put in place of the picture's, turn the answer into a
refusal, there lies what the picture lacks (causal tracing; Meng et al., 2022, arXiv 2202.05262).

Dimension letters: L blocks, B samples, T positions, K key/value heads, H head size, D hidden, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tga_jax.data.batch import Batch
from tga_jax.inference.decode import Config, embed, language_model
from tga_jax.models import layers, llama, llava

Array = jax.Array


def text_twins(pictures: Batch) -> Batch:
    """The prompts with the caption's words, repeated, in the picture's place."""
    tokens = llava.text_twin(pictures.tokens, pictures.image_mask, pictures.caption_tokens, pictures.caption_mask)
    nowhere = np.zeros_like(pictures.image_mask)
    return pictures._replace(
        tokens=np.asarray(tokens), image_mask=nowhere, images=None, image_features=None, image_places=None
    )


class Patch(NamedTuple):
    """What is taken over at each block and position; bool [L, B, T] each.

    residual: the block's input. key, value: what the block's attention reads there; positions where one of them is
    taken over go on reading their own run's, so that only what reads *them* changes.
    """

    residual: Array
    key: Array
    value: Array


class _Blocks:
    """The decoder's blocks on one batch's positions."""

    def __init__(self, config: Config, params: dict, batch: Batch):
        self.config, self.stack = language_model(config), params["llm"]["blocks"]
        c = self.config
        self.block = llama.DecoderBlock(c, emit_states=False)
        positions = llama.positions(batch.valid)
        self.rope = llama.rotations(c, positions, batch.valid.sum(1))
        self.causal = llama.masks(c, positions, positions, batch.valid)

    def block_at(self, i: Array) -> tuple[dict, Array | None]:
        """Of block i its parameters, and whether it has the window, as `llama.DecoderBlock` takes it."""
        windowed = jnp.array(self.config.windowed)[i] if self.config.is_mixed else None
        return jax.tree.map(lambda x: x[i], self.stack), windowed

    def own(self, at: tuple[dict, Array | None], x: Array) -> tuple[Array, tuple[Array, Array]]:
        """One block as it is: its output, and its keys and values [B, T, K, H]."""
        c, (p, windowed) = self.config, at
        empty = jnp.zeros((*x.shape[:2], c.num_kv_heads, c.head_dim), c.dtype)
        x, (kv, _, _) = layers.apply(self.block, p, x, (empty, empty), windowed, self.rope, self.causal, 0, None)
        return x, kv

    def reading(self, at: tuple[dict, Array | None], x: Array, kv: Sequence[Array], readers: Array) -> Array:
        """One block in which the positions `readers` [B, T] read these keys and values, the others their own."""
        p, windowed = at
        cache = tuple(jnp.concatenate([a, jnp.zeros_like(a)], axis=1) for a in kv)  # its own are written behind
        mask = jax.tree.map(
            lambda seen: jnp.concatenate([seen & readers[..., None], seen & ~readers[..., None]], -1), self.causal
        )
        return layers.apply(self.block, p, x, cache, windowed, self.rope, mask, x.shape[1], None)[0]


def _inputs(config: Config, params: dict, *batches: Batch) -> list[Array]:
    """The first block's input of each batch [B, T, D]."""
    return [embed(config, params, batch).astype(language_model(config).dtype) for batch in batches]


@partial(jax.jit, static_argnums=0)
def _onward(config: Config, params: dict, picture: Batch, x: Array, first: Array | int, last: Array | int) -> Array:
    """From the input x of block `first` to that of block `last`, of a run with `picture`'s positions."""
    blocks = _Blocks(config, params, picture)
    return jax.lax.fori_loop(first, last, lambda i, x: blocks.own(blocks.block_at(i), x)[0], x)


@partial(jax.jit, static_argnums=0)
def _patched(
    config: Config, params: dict, picture: Batch, x: Array, donor: Array, first: Array | int, patch: Patch
) -> Array:
    """`patched`, from block `first` on, whose inputs in the two runs are x and donor: no patch may lie before it."""
    blocks = _Blocks(config, params, picture)
    reads = (patch.key | patch.value).any((1, 2))  # [L]
    any_patch = reads | patch.residual.any((1, 2))
    needed = jnp.cumsum(any_patch[::-1])[::-1] > any_patch  # by a later block

    def body(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        x, donor = carry
        at, where = blocks.block_at(i), jax.tree.map(lambda a: a[i], patch)
        x = jnp.where(where.residual[..., None], donor, x)

        def mixed(x: Array) -> Array:
            masks = (where.key[..., None, None], where.value[..., None, None])
            kvs = zip(masks, blocks.own(at, donor)[1], blocks.own(at, x)[1], strict=True)
            return blocks.reading(at, x, [jnp.where(m, d, o) for m, d, o in kvs], ~(where.key | where.value))

        return (
            jax.lax.cond(reads[i], mixed, lambda x: blocks.own(at, x)[0], x),
            jax.lax.cond(needed[i], lambda x: blocks.own(at, x)[0], lambda x: x, donor),
        )

    x, _ = jax.lax.fori_loop(first, blocks.config.num_layers, body, (x, donor))
    last = jnp.take_along_axis(x, (picture.valid.sum(1) - 1)[:, None, None], axis=1)[:, 0]
    return jax.nn.log_softmax(layers.apply(llama.Decoder(blocks.config), params["llm"], last, method="lens"))


@partial(jax.jit, static_argnums=0)
def patched(config: Config, params: dict, picture: Batch, twin: Batch, patch: Patch) -> Array:
    """Log-probabilities float32 [B, V] of the token after `picture`'s prompts, run with `twin`'s states where `patch`.

    Both batches have the same rows, lengths and positions.
    """
    return _patched(config, params, picture, *_inputs(config, params, picture, twin), 0, patch)


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

    # The inputs of block `reached` in both runs: what lies before a patch is run once for all of them.
    reached, runs = 0, _inputs(config, params, picture, twin)

    def rate(patch: Mapping[str, np.ndarray]) -> float:
        fields: Any = {"residual": none, "key": none, "value": none, **patch}
        logs = _patched(config, params, picture, *runs, reached, Patch(**fields))
        return float(np.isin(np.argmax(np.asarray(logs), axis=-1), np.asarray(token_ids)).mean())

    at, found = list(range(count) if at is None else at), {}
    for j in sorted(set(at)):
        runs, reached = [_onward(config, params, picture, x, reached, j) for x in runs], j
        once, onward = blocks == j, blocks >= j
        found[j] = {
            "residual": rate({"residual": once & image}),
            "key": rate({"key": onward & image}),
            "value": rate({"value": onward & image}),
            "instruction": rate({"residual": once & after}),
        }
    unpatched = rate({})
    return {name: [*(found[j][name] for j in at), unpatched] for name in found[at[0]]}


def read_from_twin(config: Config, params: dict, picture: Batch, twin: Batch, blocks: np.ndarray) -> Array:
    """Log-probabilities float32 [B, V]: at the `blocks` marked, bool [L], all else reads the twin's states in place of
    the picture's; the picture's own go on as they are, before, within and after.

    A residual put in the picture's place at one block would stay: all that its positions hold later follows from it, so
    a window of such patches could not be told from one that has no end. At all blocks it is the twin's run.
    """
    where = np.asarray(blocks)[:, None, None] & np.asarray(picture.image_mask)
    return patched(config, params, picture, twin, Patch(residual=np.zeros_like(where), key=where, value=where))  # pyrefly: ignore
