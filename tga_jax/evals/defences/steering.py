"""A refusal direction is added to the residual stream behind one block, at every position (activation addition; Arditi
et al., 2024, arXiv 2406.11717).

Dimension letters: L blocks, B prompts, T positions, D hidden.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tga_jax.data.batch import Batch
from tga_jax.evals.asking import LENGTHS, Asker
from tga_jax.evals.defences import calibration
from tga_jax.evals.defences.moved import Moved, with_part
from tga_jax.inference.decode import Config, embed, language_model
from tga_jax.inference.model import Model
from tga_jax.models import llama

STRENGTHS = (0.5, 1.0, 2.0)  # shares of the difference between harmful and benign
PLACES = (0.2, 0.35, 0.5, 0.65)  # of all blocks


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
    return with_part(model, "llm", {**model.params["llm"], "blocks": moved})


def candidates(model: Model, directions: np.ndarray) -> list[tuple[dict[str, float], Model]]:
    """The models that are tried, each with its settings; directions [L, D]: those of `refusal_directions`."""
    blocks = [round(share * len(directions)) for share in PLACES]
    pairs = [(block, strength) for block in blocks for strength in STRENGTHS]
    return [({"block": b, "strength": s}, steered(model, b, s * directions[b])) for b, s in pairs]


def make(described: dict[str, Any], ask: Asker) -> Moved:
    """The direction of one half of the calibration's prompts in words, and block and strength that do best on the other
    half, shown where it has pictures. Raises UserError naming what is wrong with the calibration."""
    made, held_out = calibration.halves(calibration.read(Path(described["calibration"])))

    def batch(known: Sequence[calibration.Known]) -> Batch:
        return ask.model.processor.batch([ask.prompt(one.words, 0) for one in known], None, LENGTHS)

    harmful, benign = ([one for one in made if one.harmful is kind] for kind in (True, False))
    directions = refusal_directions(ask.model, batch(harmful), batch(benign))
    shares = partial(calibration.refused, ask, held_out)
    chosen = calibration.choose(candidates(ask.model, directions), shares)
    return Moved(chosen.model, chosen.to_json(), described["name"])
