"""Defences that move hidden states by a constant vector, without training.

`steered`: a refusal direction is added to the residual stream behind one block, at every position (activation addition;
Arditi et al., 2024, arXiv 2406.11717). `corrected`: a picture's input embeddings are moved by the mean difference to
words, at the embedding layer alone, after the idea of CMRM (Liu et al., 2024, arXiv 2410.09047), which moves states of
all layers.

Dimension letters: L blocks, B prompts, T positions, D hidden.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tga_jax.data.batch import Batch
from tga_jax.errors import UserError
from tga_jax.inference.decode import Config, embed, language_model
from tga_jax.inference.model import Model
from tga_jax.models import llama


@partial(jax.jit, static_argnums=0)
def last_states(config: Config, params: dict, batch: Batch) -> jax.Array:
    """Hidden states of the last position of every prompt, [L+1, B, D]; 0: the input embeddings."""
    decoder = llama.bound(language_model(config), params["llm"], emit_states=True)
    states = decoder(embed(config, params, batch), llama.positions(batch.valid), batch.valid).states
    last = (batch.valid.sum(1) - 1)[None, :, None, None]
    return jnp.take_along_axis(states, last, axis=2)[:, :, 0].astype(jnp.float32)


def refusal_directions(model: Model, harmful: Batch, benign: Batch) -> np.ndarray:
    """float32 [L, D]: behind each block, the mean last state of harmful prompts less that of benign ones."""
    config: Any = model.config
    means = [np.asarray(last_states(config, model.params, b))[1:].mean(1) for b in (harmful, benign)]
    return means[0] - means[1]


def steered(model: Model, block: int, vector: np.ndarray) -> Model:
    """The model with `vector` [D] added behind a block, counted from 0."""
    config: Any = model.config
    blocks = model.params["llm"]["blocks"]
    if llama.are_separate(model.params["llm"]):
        moved = {**blocks, str(block): {**blocks[str(block)], "shift": jnp.asarray(vector)}}
    else:
        count = language_model(config).num_layers
        moved = {**blocks, "shift": jnp.zeros((count, len(vector))).at[block].set(vector)}
    return _with(model, "llm", {**model.params["llm"], "blocks": moved})


def picture_difference(model: Model, pictures: Batch, twins: Batch) -> np.ndarray:
    """float32 [D]: the mean input embedding in the picture's place of the twins, which have words there, less that of
    the prompts with pictures."""
    config: Any = model.config
    where = np.asarray(pictures.image_mask)
    own, words = (np.asarray(embed(config, model.params, b), np.float32)[where].mean(0) for b in (pictures, twins))
    return words - own


def corrected(model: Model, vector: np.ndarray) -> Model:
    """The model whose pictures' input embeddings are moved by `vector` [D]."""
    config: Any = model.config
    projector, last = model.params["projector"], config.projector.last
    moved = {last: {**projector[last], "bias": projector[last]["bias"] + jnp.asarray(vector)}}
    if "newline" in projector:  # of a model with tiles, an input embedding of pictures, too
        moved["newline"] = projector["newline"] + jnp.asarray(vector)
    return _with(model, "projector", {**projector, **moved})


def _with(model: Model, part: str, params: dict[str, Any]) -> Model:
    return dataclasses.replace(model, params={**model.params, part: params})


@dataclasses.dataclass(frozen=True)
class Chosen:
    """settings: those of the best candidate; refused, false_alarms: its shares on the calibration prompts."""

    model: Model
    settings: dict[str, float]
    refused: float
    false_alarms: float


def choose(
    candidates: Sequence[tuple[dict[str, float], Model]], shares: Callable[[Model], tuple[float, float]]
) -> Chosen:
    """The candidate with most refusals of harmful prompts less those of benign ones, of equals the first.

    shares: a model's share of harmful and of benign calibration prompts that are refused. Raises UserError without
    candidates.
    """
    if not candidates:
        raise UserError("steering: no candidates, expected at least one")
    found = [Chosen(model, settings, *shares(model)) for settings, model in candidates]
    return max(found, key=lambda one: one.refused - one.false_alarms)
