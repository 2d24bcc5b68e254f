"""Text from a model: batched prefill, then a decode loop with a KV cache, all in one jit.

Parameters may be as they are trained, or with separate blocks (`llama.separate_blocks`), which decode faster.

Dimension letters: B batch, T prompt positions, N new tokens, V vocabulary.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from tga_jax.data.batch import Batch
from tga_jax.errors import UserError
from tga_jax.inference.sampling import GREEDY, Sampling, choose
from tga_jax.models import layers, llama, llava

Array = jax.Array
NO_TOKEN = -1  # in an answer's place for a next token, where there is none: its logits are NaN
Config = llava.LlavaConfig | llama.LlamaConfig  # with pictures, or a language model alone


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How answers are written; static: a program is compiled for each. An answer ends with the first of stop_ids, which
    is kept; pad_id follows."""

    stop_ids: tuple[int, ...]
    pad_id: int
    sampling: Sampling = GREEDY


class DecodeState(NamedTuple):
    """What one step of the loop needs from the steps before."""

    step: Array  # int32 scalar: new tokens so far
    tokens: Array  # int32 [B, N]: new tokens, padding after the stop token; NO_TOKEN where the logits are NaN
    last: Array  # int32 [B]: the token to feed next
    done: Array  # bool [B]
    lengths: Array  # int32 [B]: tokens of the prompts
    keys: Array  # [B]: one random key a row
    seen: Array | None  # bool [B, V]: tokens of the prompt and the answer so far, if a penalty asks for them
    cache: llama.KVCache


def _emit(state: DecodeState, logits: Array, how: Decoding) -> DecodeState:
    """Chooses the next token of every row that is not done. logits [B, V]."""
    keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.step)
    token = jnp.where(jnp.isnan(logits).any(-1), NO_TOKEN, choose(how.sampling, logits, state.seen, keys))
    token = jnp.where(state.done, how.pad_id, token)
    done = state.done | jnp.isin(token, jnp.array((NO_TOKEN, *how.stop_ids), jnp.int32))
    seen = state.seen if state.seen is None else state.seen.at[jnp.arange(len(token)), token].set(True)
    tokens = state.tokens.at[:, state.step].set(token)
    return state._replace(step=state.step + 1, tokens=tokens, last=token, done=done, seen=seen)


def language_model(config: Config) -> llama.LlamaConfig:
    return config.llm if isinstance(config, llava.LlavaConfig) else config


def embed(config: Config, params: dict, batch: Batch) -> Array:
    """Input embeddings [B, T, D]; pictures come as features, or as pixels that the tower reads."""
    if isinstance(config, llama.LlamaConfig):
        return layers.apply(llama.Decoder(config), params["llm"], batch.tokens, method="embed")
    features = batch.image_features
    if features is None and batch.images is not None:
        features = llava.image_features(config, params["clip"], batch.images)
    return llava.embed(config, params, batch.tokens, batch.image_mask, features, batch.image_places)


@partial(jax.jit, static_argnames=("config", "how", "new_tokens"))
def prefill(config: Config, params: dict, batch: Batch, keys: Array, how: Decoding, *, new_tokens: int) -> DecodeState:
    """Reads the prompts, which may be padded on either side, and chooses the first new token.

    Prompts take slots 0..T-1 of the cache and new tokens the slots after; a row's positions count its own tokens, so
    padding changes nothing. keys: [B] random keys.
    """
    size, length = batch.tokens.shape
    chex.assert_shape([batch.valid, batch.image_mask], (size, length))
    chex.assert_shape(keys, (size,))
    llm = language_model(config)
    decoder = llama.bound(llm, params["llm"])
    x = embed(config, params, batch)
    cache = llama.empty_cache(llm, size, length + new_tokens, llama.are_separate(params["llm"]))
    out = decoder(x, llama.positions(batch.valid, left=True), batch.valid, None, cache)
    last = length - 1 - jnp.argmax(batch.valid[:, ::-1], axis=1)
    final = jnp.take_along_axis(out.hidden, last[:, None, None], axis=1)
    seen = None
    if how.sampling.repetition_penalty != 1:
        text = jnp.where(batch.valid & ~batch.image_mask, batch.tokens, llm.vocab_size)  # out of bounds: dropped
        seen = jnp.zeros((size, llm.vocab_size), bool).at[jnp.arange(size)[:, None], text].set(True, mode="drop")
    state = DecodeState(
        step=jnp.zeros((), jnp.int32),
        tokens=jnp.full((size, new_tokens), how.pad_id, jnp.int32),
        last=jnp.zeros(size, jnp.int32),
        done=jnp.zeros(size, bool),
        lengths=batch.valid.sum(1).astype(jnp.int32),
        keys=keys,
        seen=seen,
        cache=out.cache,
    )
    return _emit(state, decoder(final[:, 0], method="logits"), how)


@partial(jax.jit, static_argnames=("config", "how"), donate_argnames="state")
def decode(config: llama.LlamaConfig, llm: dict, state: DecodeState, until: Array | int, how: Decoding) -> DecodeState:
    """Goes on until there are `until` new tokens or every row is done. llm: the decoder's parameters."""
    decoder = llama.bound(config, llm)

    def body(state: DecodeState) -> DecodeState:
        x = decoder(state.last[:, None], method="embed")
        positions = (state.lengths + state.step - 1)[:, None]
        out = decoder(x, positions, jnp.ones(positions.shape, bool), None, state.cache)
        state = state._replace(cache=out.cache)
        return _emit(state, decoder(out.hidden[:, 0], method="logits"), how)

    return jax.lax.while_loop(lambda s: (s.step < until) & ~s.done.all(), body, state)


def row_keys(seed: int, numbers: Sequence[int]) -> Array:
    """One key for each row, from its number: a row's choices do not depend on the others."""
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(jnp.array(numbers))


@partial(jax.jit, static_argnames=("config", "how", "new_tokens"))
def generate(
    config: Config, params: dict, batch: Batch, how: Decoding, keys: Array | None = None, *, new_tokens: int
) -> Array:
    """Continuations int32 [B, N] of the prompts in `batch`; rows may differ in length. keys: [B], for sampling.

    A row whose logits are NaN ends with NO_TOKEN.
    """
    keys = row_keys(0, range(len(batch.tokens))) if keys is None else keys
    state = prefill(config, params, batch, keys, how, new_tokens=new_tokens)
    return decode(language_model(config), params["llm"], state, new_tokens, how).tokens


def _checked(tokens: Array | np.ndarray, first: int = 0) -> np.ndarray:
    """New tokens [B, N] of the prompts from number `first` on. Raises UserError where there is none."""
    found = np.asarray(tokens)
    wrong = np.argwhere(found == NO_TOKEN)
    if len(wrong):
        row, place = wrong[0].tolist()
        raise UserError(
            f"prompt {first + row}: the logits of new token {place} are NaN, expected numbers; the checkpoint's "
            "weights are damaged, or overflow in this dtype"
        )
    return found


def stream(
    config: Config,
    params: dict,
    batch: Batch,
    how: Decoding,
    *,
    new_tokens: int,
    seed: int = 0,
    every: int = 1,
) -> Iterator[np.ndarray]:
    """The same tokens as `generate` with these keys, int32 [B, so far], `every` tokens at a time.

    Raises UserError where logits are NaN.
    """
    keys = row_keys(seed, range(len(batch.tokens)))
    for tokens in steps(config, params, batch, how, keys, new_tokens=new_tokens, every=every):
        yield _checked(tokens)


def steps(
    config: Config,
    params: dict,
    batch: Batch,
    how: Decoding,
    keys: Array,
    *,
    new_tokens: int,
    every: int = 1,
) -> Iterator[np.ndarray]:
    """The tokens of `generate`, int32 [B, so far], `every` at a time, until all rows have ended. A row whose logits are
    NaN ends with NO_TOKEN."""
    state = prefill(config, params, batch, keys, how, new_tokens=new_tokens)
    while True:
        step = int(state.step)
        yield np.asarray(state.tokens[:, :step])
        if step >= new_tokens or bool(state.done.all()):
            return
        state = decode(language_model(config), params["llm"], state, min(step + every, new_tokens), how)


def generate_all(
    config: Config,
    params: dict,
    rows: Batch,
    how: Decoding,
    *,
    new_tokens: int,
    seed: int = 0,
    batch_size: int = 64,
    numbers: Sequence[int] | None = None,
) -> np.ndarray:
    """`generate` over any number of rows in batches of one static size, the last one filled up. int32 [rows, N].

    numbers: the rows' own, from which and from the seed come their keys; 0, 1, ... by default. Raises UserError where
    logits are NaN.
    """
    count = len(rows.tokens)
    keys = row_keys(seed, range(count) if numbers is None else numbers)
    answers = []
    for start in range(0, count, batch_size):
        index = np.minimum(np.arange(start, start + batch_size), count - 1)
        batch = jax.tree.map(lambda x, i=index: x[i], rows)
        answers.append(_checked(generate(config, params, batch, how, keys[index], new_tokens=new_tokens), start))
    return np.concatenate(answers)[:count]
