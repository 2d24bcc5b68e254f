"""A tiny model, padded prompts, and a forward by hand, for the tests of the analysis."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tga_jax.data.batch import Batch
from tga_jax.models import clip, layers, llama, llava

VOCAB, P, T, C = 23, 4, 10, 6
MODEL = llava.LlavaConfig(
    clip=clip.ClipConfig(
        vision=clip.VisionConfig(8, 1, 2, 16, image_size=8, patch_size=4),
        text=clip.TextConfig(8, 1, 2, 16, vocab_size=VOCAB, context_length=6, eos_token_id=2),
        embed_size=8,
    ),
    llm=llama.LlamaConfig(VOCAB, 16, 3, 2, 1, 8, 24, 1e4, 1e-5, None, True),
    feature_layer=-1,
)
LENGTHS, CAPTIONS = (10, 7, 8), (5, 2, 3)  # tokens of the prompts, words of the captions


@functools.cache
def parameters() -> dict:
    params = jax.jit(lambda: llava.init(MODEL, jax.random.key(1), ("projector", "llm")))()
    return jax.tree.map(lambda p: 5 * p if p.ndim > 1 else p, params)


def prompts(with_image: bool) -> Batch:
    rng = np.random.default_rng(5)
    size = len(LENGTHS)
    valid = np.arange(T) < np.array(LENGTHS)[:, None]
    mask = np.zeros((size, T), bool)
    if with_image:
        mask[:, 1 : 1 + P] = True
    words = np.arange(C) <= np.array(CAPTIONS)[:, None]
    return Batch(
        tokens=np.where(valid & ~mask, rng.integers(3, VOCAB, (size, T)), 0).astype(np.int32),
        valid=valid,
        targets=np.zeros((size, T), bool),
        image_mask=mask,
        retrieved_mask=np.zeros((size, T), bool),
        caption_tokens=np.where(words, rng.integers(3, VOCAB, (size, C)), 0).astype(np.int32),
        caption_mask=words & (np.arange(C) > 0),
        image_features=rng.standard_normal((size, 1, P, 8)).astype(np.float32) if with_image else None,
    )


def states_by_hand(tokens: np.ndarray, features: np.ndarray | None):
    """All states [L+1, T, D] and next-token log-probabilities [T, V] of one row without any padding."""
    llm = parameters()["llm"]
    decoder = llama.Decoder(MODEL.llm, emit_states=True)
    x = np.array(layers.apply(decoder, llm, jnp.asarray(tokens)[None], method="embed"))
    if features is not None:
        x[0, 1 : 1 + P] = layers.apply(llava.projector(MODEL), parameters()["projector"], jnp.asarray(features))
    positions = jnp.arange(len(tokens))[None]
    out = layers.apply(decoder, llm, jnp.asarray(x), positions, positions >= 0)
    logits = layers.apply(decoder, llm, out.hidden, method="logits")
    return np.asarray(out.states)[:, 0], np.asarray(jax.nn.log_softmax(logits))[0]
