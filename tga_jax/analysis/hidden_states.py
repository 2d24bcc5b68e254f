"""Where safety lives: hidden states of pictures against their captions, and the layers at which refusal appears.

Dimension letters: L layers, B samples, D hidden, V vocabulary.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tga_jax.data.batch import Batch
from tga_jax.generate import Config, embed, language_model
from tga_jax.models import layers, llama


@partial(jax.jit, static_argnums=0)
def probe(config: Config, params: dict, batch: Batch) -> dict[str, jax.Array]:
    """States of prompts (with or without a picture) at every layer, 0 being the input embeddings.

    Returns image: I_j [L+1, B, D], mean over the image tokens (zeros without); caption: C_j [L+1, B, D], mean over the
    caption's tokens in a text-only forward; lens: float32 [L+1, B, V], log-probabilities of the next token read from
    the last position of each layer through the final norm, applied once, and the head.
    """
    decoder = partial(layers.apply, llama.Decoder(language_model(config), emit_states=True), params["llm"])

    def forward(x, valid, segment) -> Any:
        positions = jnp.broadcast_to(jnp.arange(x.shape[1], dtype=jnp.int32), x.shape[:2])
        return decoder(x, positions, valid, segment[:, None])

    prompt = forward(embed(config, params, batch), batch.valid, batch.image_mask)
    caption_valid = batch.caption_mask.at[:, 0].set(True)
    caption = forward(decoder(batch.caption_tokens, method="embed"), caption_valid, batch.caption_mask)
    last = (batch.valid.sum(1) - 1)[None, :, None, None]
    states = jnp.take_along_axis(prompt.states, last, axis=2)[:, :, 0]
    lens = decoder(states, method="lens")
    return {"image": prompt.means[:, :, 0], "caption": caption.means[:, :, 0], "lens": jax.nn.log_softmax(lens)}


def cosine_curves(image: np.ndarray, caption: np.ndarray, shift: int) -> dict[str, dict[str, list[float]]]:
    """cos(I_j, C_j) per layer [L+1], of matched and of mismatched pairs, as it is and after centring.

    image, caption: [L+1, B, D]. A mismatched pair is sample i's picture with sample (i + shift)'s caption. Different
    captions' states are close to each other, so a raw cosine says little; centring takes off each side's mean.
    """

    def cosine(a: np.ndarray, b: np.ndarray) -> list[float]:
        norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
        return np.mean((a * b).sum(-1) / np.maximum(norms, 1e-12), axis=1).tolist()

    curves = {}
    for name, (i, c) in {
        "raw": (image, caption),
        "centred": (image - image.mean(1, keepdims=True), caption - caption.mean(1, keepdims=True)),
    }.items():
        curves[name] = {"matched": cosine(i, c), "mismatched": cosine(i, np.roll(c, -shift, axis=1))}
    return curves


@dataclasses.dataclass(frozen=True)
class RefusalLayers:
    """Where refusal starts and ends, over the samples in which it appears at all (medians), and how many have none."""

    start: int | None
    end: int | None
    no_activation: int
    probability: list[float]  # [L+1]: mean probability of a refusal token


def refusal_layers(lens: np.ndarray, refusal_ids: Sequence[int], top_k: int = 5) -> RefusalLayers:
    """The layers at which refusal appears in the logit lens (the paper's procedure).

    lens: log-probabilities [L+1, B, V]. Per layer the change of the next-token distribution from the layer before is
    ranked. Start: the first layer above 1 whose top k of the change hold a refusal token; end: the last layer from
    there on whose top 1 is one. A sample without a start is counted in `no_activation` and enters no mean.
    """
    probs = np.exp(lens.astype(np.float64))
    change = np.diff(probs, axis=0)  # change[j - 1]: from layer j - 1 to j
    ranked = np.argsort(-change, axis=-1)[..., :top_k]
    in_top = np.isin(ranked, refusal_ids)
    starts, ends, missing = [], [], 0
    for sample in range(lens.shape[1]):
        layers = [j for j in range(2, lens.shape[0]) if in_top[j - 1, sample].any()]
        if not layers:
            missing += 1
            continue
        starts.append(layers[0])
        tops = [j for j in range(layers[0], lens.shape[0]) if in_top[j - 1, sample, 0]]
        ends.append(tops[-1] if tops else layers[0])
    probability = probs[..., list(refusal_ids)].sum(-1).mean(1).tolist()
    if not starts:
        return RefusalLayers(None, None, missing, probability)
    return RefusalLayers(int(np.median(starts)), int(np.median(ends)), missing, probability)
