"""Text from a model: batched prefill, then a greedy decode loop with a KV cache, all in one jit.

Dimension letters: B batch, T prompt positions, N new tokens.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tga_jax.data.batch import Batch
from tga_jax.models import layers, llama, llava

Array = jax.Array


class DecodeState(NamedTuple):
    step: Array  # int32 scalar: new tokens so far
    tokens: Array  # int32 [B, N]: new tokens, padding after the stop token
    last: Array  # int32 [B]: the token to feed next
    done: Array  # bool [B]
    cache: llama.KVCache


@partial(jax.jit, static_argnames=("config", "new_tokens", "stop_ids", "pad_id"))
def generate(
    config: llava.LlavaConfig,
    params: dict,
    batch: Batch,
    *,
    new_tokens: int,
    stop_ids: tuple[int, ...],
    pad_id: int,
) -> Array:
    """Greedy continuations int32 [B, N] of the prompts in `batch` (right-padded; rows may differ in length).

    A row ends with its first stop token, which is kept; padding follows. Prompts take slots 0..T-1 of the cache and
    new tokens the slots after; a row's positions go on from its own length, so padding changes nothing.
    """
    size, length = batch.tokens.shape
    features = batch.image_features
    if features is None and batch.images is not None:
        features = llava.image_features(config, params["clip"], batch.images)
    decoder = partial(layers.apply, llama.Decoder(config.llm), params["llm"])
    lengths = batch.valid.sum(1).astype(jnp.int32)
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (size, length))

    x = llava.embed(config, params, batch.tokens, batch.image_mask, features)
    cache = llama.empty_cache(config.llm, size, length + new_tokens)
    out = decoder(x, positions, batch.valid, None, cache)
    final = jnp.take_along_axis(out.hidden, (lengths - 1)[:, None, None], axis=1)

    def choose(hidden: Array) -> Array:
        return jnp.argmax(decoder(hidden[:, 0], method="logits"), axis=-1).astype(jnp.int32)

    def body(state: DecodeState) -> DecodeState:
        x = decoder(state.last[:, None], method="embed")
        positions = (lengths + state.step - 1)[:, None]
        out = decoder(x, positions, jnp.ones((size, 1), bool), None, state.cache)
        return emit(state, choose(out.hidden), out.cache)

    def emit(state: DecodeState, chosen: Array, cache: llama.KVCache) -> DecodeState:
        token = jnp.where(state.done, pad_id, chosen)
        done = state.done | jnp.isin(token, jnp.array(stop_ids))
        return DecodeState(state.step + 1, state.tokens.at[:, state.step].set(token), token, done, cache)

    empty = jnp.full((size, new_tokens), pad_id, jnp.int32)
    start = DecodeState(jnp.zeros((), jnp.int32), empty, jnp.zeros(size, jnp.int32), jnp.zeros(size, bool), out.cache)
    first = emit(start, choose(final), out.cache)
    return jax.lax.while_loop(lambda s: (s.step < new_tokens) & ~s.done.all(), body, first).tokens


def generate_all(
    config: llava.LlavaConfig,
    params: dict,
    rows: Batch,
    *,
    new_tokens: int,
    stop_ids: tuple[int, ...],
    pad_id: int,
    batch_size: int = 64,
) -> np.ndarray:
    """`generate` over any number of rows in batches of one static size, the last one filled up. int32 [rows, N]."""
    count = len(rows.tokens)
    answers = []
    for start in range(0, count, batch_size):
        index = np.minimum(np.arange(start, start + batch_size), count - 1)
        batch = jax.tree.map(lambda x, i=index: x[i], rows)
        answers.append(
            np.asarray(generate(config, params, batch, new_tokens=new_tokens, stop_ids=stop_ids, pad_id=pad_id))
        )
    return np.concatenate(answers)[:count]
