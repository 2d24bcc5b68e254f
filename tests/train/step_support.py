"""A tiny model, rows of every kind, and the losses on them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tga_jax.data.batch import Batch
from tga_jax.guides import Instruction, Paper, Released, Tiled, Transport
from tga_jax.models import clip, llama, llava, projectors
from tga_jax.train import step
from tga_jax.train.step import LossConfig

MODEL = llava.LlavaConfig(
    clip=clip.ClipConfig(
        vision=clip.VisionConfig(8, 2, 2, 16, image_size=8, patch_size=4),
        text=clip.TextConfig(8, 1, 2, 16, vocab_size=40, context_length=12, eos_token_id=2),
        embed_size=8,
    ),
    llm=llama.LlamaConfig(40, 16, 3, 2, 1, 8, 24, 1e4, 1e-5, None, True),
    projector=projectors.Mlp2xGelu(hidden=12),
    feature_layer=-1,
)
P, T, C = 4, 14, 6  # image tokens, positions, caption tokens
RELEASED = Released(layers=(1, 2))
PAPER = Paper(hinge_decay="linear")  # all blocks
TILED = Tiled(layers=(1, 2), weight=0.7, decay="linear", vocab_weight=0.3)
INSTRUCTION = Instruction(layers=(1, 3), weight=0.7, decay="linear")
TRANSPORT = Transport(layers=(0, 2), weight=0.7, decay="linear", masses="rarity", temperature=0.5)
GUIDES = {"paper": PAPER, "released": RELEASED, "tiled": TILED, "transport": TRANSPORT, "instruction": INSTRUCTION}
every_guide = pytest.mark.parametrize("guide", GUIDES.values(), ids=GUIDES)
STAGE_1 = ((r"projector/.*", 1.0), (r".*", 0.0))
STAGE_2 = ((r"clip/.*", 0.0), (r".*", 1.0))
KEY = jax.random.key(5)
ROWS = ("full", "no retrieved", "no caption", "text")


@functools.cache
def parameters() -> dict:
    """A decoder larger than at initialisation, so that every layer counts."""
    params = jax.jit(lambda: llava.init(MODEL, jax.random.key(0)))()
    return {**params, "llm": jax.tree.map(lambda p: 6 * p if p.ndim > 1 else p, params["llm"])}


def row(kind: str, seed: int) -> Batch:
    """A row of random tokens: R, pictures, a question of two, an answer. kind: one of `ROWS`, or "two pictures"."""
    rng = np.random.default_rng(seed)
    pictures = {"text": 0, "two pictures": 2}.get(kind, 1)
    retrieved = {"full": 3, "no caption": 3, "two pictures": 1}.get(kind, 0)
    caption = 0 if kind == "no caption" else int(rng.integers(2, C))
    answer = 2 if pictures == 2 else int(rng.integers(2, 5))
    image = pictures * P
    length = 1 + retrieved + image + 2 + answer
    start = 1 + retrieved
    place = np.arange(T)
    caption_place = np.arange(C)
    tokens = np.where(place < length, rng.integers(7, 40, T), 0)
    tokens[0] = 1
    caption_tokens = np.where(caption_place <= caption, rng.integers(7, 40, C), 0)
    caption_tokens[0] = 1
    return Batch(
        tokens=tokens.astype(np.int32),
        valid=place < length,
        targets=(place >= length - answer) & (place < length),
        image_mask=(place >= start) & (place < start + image),
        retrieved_mask=(place >= 1) & (place < start),
        caption_tokens=caption_tokens.astype(np.int32),
        caption_mask=(caption_place > 0) & (caption_place <= caption),
        image_features=rng.standard_normal((max(pictures, 1), P, 8)).astype(np.float32),
    )


def batch_of(kinds=ROWS, seed: int = 0) -> Batch:
    return stack([row(kind, seed + i) for i, kind in enumerate(kinds)])


def stack(rows: list[Batch]) -> Batch:
    return jax.tree.map(lambda *x: np.stack(x), *rows)


def take(batch: Batch, index: list[int]) -> Batch:
    return jax.tree.map(lambda x: x[np.array(index)], batch)


@functools.partial(jax.jit, static_argnums=0)
def evaluate(config: LossConfig, params: dict, batch: Batch, key=KEY, progress=0.25):
    return step.loss_fn(MODEL, config, params, batch, key, jnp.asarray(progress))


@functools.partial(jax.jit, static_argnums=0)
def gradient(config: LossConfig, params: dict, batch: Batch):
    return jax.grad(lambda p: step.loss_fn(MODEL, config, p, batch, KEY, jnp.asarray(0.25))[0])(params)


def largest(tree) -> float:
    return max(float(jnp.max(jnp.abs(x))) for x in jax.tree.leaves(tree))
