"""A picture's input embeddings are moved by the mean difference to words, at the embedding layer alone, after the idea
of CMRM (Liu et al., 2024, arXiv 2410.09047), which moves states of all layers.

Dimension letters: B prompts, D hidden, C words of a caption.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tga_jax.analysis.patching import text_twins
from tga_jax.data.batch import Batch
from tga_jax.errors import UserError
from tga_jax.evals.asking import LENGTHS, Asker
from tga_jax.evals.defences import calibration
from tga_jax.evals.defences.moved import Moved, with_part
from tga_jax.inference.decode import embed
from tga_jax.inference.model import Model

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.5)  # shares of the difference between words and pictures


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
    return with_part(model, "projector", {**projector, **moved})


def candidates(model: Model, vector: np.ndarray) -> list[tuple[dict[str, float], Model]]:
    """The models that are tried, each with its settings; vector [D]: that of `picture_difference`."""
    return [({"strength": strength}, corrected(model, strength * vector)) for strength in STRENGTHS]


def _captioned(ask: Asker, known: list[calibration.Known]) -> Batch:
    """The questions with their pictures, and beside them the captions [B, 1 + C], behind a begin token."""
    pictures = [[one.image()] if one.image else [] for one in known]
    batch = ask.model.processor.batch([ask.prompt(one.text, 1) for one in known], pictures, LENGTHS)
    words = [ask.model.processor.vocabulary.encode(one.caption) for one in known]
    tokens = np.zeros((len(known), 1 + max(map(len, words))), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, own in enumerate(words):
        tokens[row, 1 : 1 + len(own)], mask[row, 1 : 1 + len(own)] = own, True
    return batch._replace(caption_tokens=tokens, caption_mask=mask)


def make(described: dict[str, Any], ask: Asker) -> Moved:
    """The difference of one half of the calibration's pictures, and the strength that does best on the other half.
    Raises UserError naming what is wrong with the calibration, and for one without pictures."""
    path = Path(described["calibration"])
    known = [one for one in calibration.read(path) if one.image]
    if not known:
        raise UserError(f"{path}: no line with an image and its caption, by which pictures are moved towards words")
    if not ask.model.processor.image_tokens:
        raise UserError("--defence=shift: the checkpoint has no vision tower, expected one whose pictures are moved")
    made, held_out = calibration.halves(known)
    pictures = _captioned(ask, made)
    vector = picture_difference(ask.model, pictures, text_twins(pictures))
    chosen = calibration.choose(candidates(ask.model, vector), partial(calibration.refused, ask, held_out))
    return Moved(chosen.model, chosen.to_json(), described["name"])
