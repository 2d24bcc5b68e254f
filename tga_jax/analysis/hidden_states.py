"""Where safety lives: hidden states of pictures against their captions, and the layers at which refusal appears.

Dimension letters: L blocks (layers 0 to L, 0 being the embedding output), B samples, T positions, P image tokens,
D hidden, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tga_jax.analysis.attention_mass import image_attention
from tga_jax.data.batch import Batch
from tga_jax.errors import UserError
from tga_jax.inference.decode import Config, embed, language_model
from tga_jax.models import llama, llava


def _lens(decoder: Any, states: jax.Array, valid: jax.Array) -> jax.Array:
    """float32 [L+1, B, V]: logits read from states [L+1, B, T, D] at the last position, through the final norm, applied
    once, and the head."""
    last = (valid.sum(1) - 1)[None, :, None, None]
    return decoder(jnp.take_along_axis(states, last, axis=2)[:, :, 0], method="lens")


@partial(jax.jit, static_argnums=0)
def logit_lens(config: Config, params: dict, batch: Batch) -> jax.Array:
    """float32 [L+1, B, V]: the logit lens at the last position of every prompt, of stacked or separate blocks."""
    decoder = llama.bound(language_model(config), params["llm"], emit_states=True)
    x = embed(config, params, batch)
    return _lens(decoder, decoder(x, llama.positions(batch.valid), batch.valid).states, batch.valid)


@partial(jax.jit, static_argnames=("config", "image_tokens"))
def probe(config: Config, params: dict, batch: Batch, image_tokens: int = 0) -> dict[str, jax.Array]:
    """States of prompts (with or without a picture) at every layer, 0 being the input embeddings.

    Returns image: I_j [L+1, B, D], mean over the image tokens (zeros without); caption: C_j [L+1, B, D], mean over the
    caption's tokens in a text-only forward; lens: float32 [L+1, B, V], log-probabilities of the next token read from
    the last position of each layer through the final norm, applied once, and the head; attention: float32 [L, B], the
    share of the last position's attention that goes to the image tokens. With image_tokens (P), also image_top: int32
    [L+1, B, P], the lens's most likely token at each image token. params: of stacked blocks.
    """
    decoder = llama.bound(language_model(config), params["llm"], emit_states=True)

    def forward(x, valid, segment) -> Any:
        return decoder(x, llama.positions(valid), valid, segment[:, None])

    prompt = forward(embed(config, params, batch), batch.valid, batch.image_mask)
    caption_valid = batch.caption_mask.at[:, 0].set(True)
    caption = forward(decoder(batch.caption_tokens, method="embed"), caption_valid, batch.caption_mask)
    found = {
        "image": prompt.means[:, :, 0],
        "caption": caption.means[:, :, 0],
        "lens": jax.nn.log_softmax(_lens(decoder, prompt.states, batch.valid)),
        "attention": image_attention(
            language_model(config), params["llm"]["blocks"], prompt.states[:-1], batch.valid, batch.image_mask
        ),
    }
    if image_tokens:
        index = llava.marked(batch.image_mask, image_tokens)
        states = jnp.take_along_axis(prompt.states, index[None, :, :, None], axis=2)
        # A layer at a time: logits of all would be L + 1 times a vocabulary for each token.
        found["image_top"] = jax.lax.map(lambda x: decoder(x, method="lens").argmax(-1).astype(jnp.int32), states)
    return found


def pair_cosines(image: np.ndarray, caption: np.ndarray, other: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """cos(I_j, C_j) [L+1, B] of matched and of mismatched pairs, as it is and after centring.

    image, caption: [L+1, B, D]. A mismatched pair is sample i's picture with sample other[i]'s caption. Different
    captions' states are close to each other, so a raw cosine says little; centring takes off each side's mean.
    """
    centred = (image - image.mean(1, keepdims=True), caption - caption.mean(1, keepdims=True))
    return {
        name: {"matched": cosine(i, c), "mismatched": cosine(i, c[:, other])}
        for name, (i, c) in {"raw": (image, caption), "centred": centred}.items()
    }


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[..., D] twice -> [...]; 0 for a zero vector."""
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return (a * b).sum(-1) / np.maximum(norms, 1e-12)


def cosine_curves(image: np.ndarray, caption: np.ndarray, shift: int) -> dict[str, dict[str, list[float]]]:
    """The means of `pair_cosines` over the samples, by layer [L+1]; other: the sample `shift` further on."""
    found = pair_cosines(image, caption, np.roll(np.arange(image.shape[1]), -shift))
    return {name: {pair: x.mean(1).tolist() for pair, x in pairs.items()} for name, pairs in found.items()}


CHANGES = ("log-ratio", "difference")
FLOOR = 1e-3


@dataclasses.dataclass(frozen=True)
class Ranking:
    """What is ranked at layer j, to see what it adds to the next token's distribution P_j of the layer before.

    change: "log-ratio", the paper's D_j(x) = log(P_j(x) / P_{j-1}(x)), or "difference", the released code's
    P_j(x) - P_{j-1}(x). floor: of P_j(x), below which a token is not ranked by its log-ratio; else words that go from
    one in a billion to one in a million would fill the top. None: 1e-3; a difference needs none. top_k: how many tokens
    count as the layer's change.
    """

    change: str = "log-ratio"
    floor: float | None = None
    top_k: int = 5

    def __post_init__(self):
        if self.change not in CHANGES:
            raise UserError(f"change: {self.change!r}, expected one of {', '.join(CHANGES)}")
        if self.floor is not None and self.change == "difference":
            raise UserError(f"floor: {self.floor}, expected none beside the change by difference")
        if self.floor is not None and not 0 <= self.floor < 1:
            raise UserError(f"floor: {self.floor}, expected a probability from 0 to below 1")
        if self.top_k < 1:
            raise UserError(f"top_k: {self.top_k}, expected at least 1")

    def changes(self, lens: np.ndarray) -> np.ndarray:
        """lens: log-probabilities float64 [L+1, V] -> [L, V]: of layers 1 to L; -inf where a token is not ranked."""
        if self.change == "difference":
            return np.diff(np.exp(lens), axis=0)
        floor = FLOOR if self.floor is None else self.floor
        return np.where(np.exp(lens[1:]) >= floor, np.diff(lens, axis=0), -np.inf)


PAPERS = Ranking()


def refusal_span(lens: np.ndarray, refusal_ids: Sequence[int], ranking: Ranking = PAPERS) -> tuple[int, int] | None:
    """The first and the last layer at which one sample's refusal appears in the logit lens.

    lens: log-probabilities [L+1, V]. Start: the first layer above 1 at which a refusal token gains and is among the
    top k of the layer's change. End: the last layer from there on whose most probable token is a refusal token, as in
    the released code, or the start. None: it never starts.
    """
    lens = lens.astype(np.float64)
    change = ranking.changes(lens)  # change[j - 1]: from layer j - 1 to j
    rank = np.full(len(change), change.shape[1])  # of the refusal token that gains most; of equals, the lower id leads
    for token in refusal_ids:
        own = change[:, token, None]
        before = (change > own).sum(1) + (change[:, :token] == own).sum(1)
        rank = np.where(own[:, 0] > 0, np.minimum(rank, before), rank)
    layers = np.arange(1, len(lens))
    starts = layers[(rank < ranking.top_k) & (layers > 1)]
    if not len(starts):
        return None
    tops = layers[np.isin(lens[1:].argmax(-1), refusal_ids) & (layers >= starts[0])]
    return int(starts[0]), int(tops[-1] if len(tops) else starts[0])


@dataclasses.dataclass(frozen=True)
class RefusalLayers:
    """Where refusal starts and ends, over the samples in which it appears at all (medians), and how many have none."""

    start: int | None
    end: int | None
    no_activation: int
    probability: list[float]  # [L+1]: mean probability of a refusal token


def refusal_layers(lens: np.ndarray, refusal_ids: Sequence[int], ranking: Ranking = PAPERS) -> RefusalLayers:
    """`refusal_span` over samples. lens: log-probabilities [L+1, B, V].

    A sample without a start is counted in `no_activation` and enters no median.
    """
    spans = [refusal_span(lens[:, sample], refusal_ids, ranking) for sample in range(lens.shape[1])]
    found = [span for span in spans if span is not None]
    probability = np.exp(lens[..., list(refusal_ids)].astype(np.float64)).sum(-1).mean(1).tolist()
    start, end = np.median(found, axis=0).astype(int).tolist() if found else (None, None)
    return RefusalLayers(start, end, len(spans) - len(found), probability)
