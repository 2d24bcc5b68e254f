"""The safety lens: what a checkpoint makes of one picture, layer by layer, and of its caption as text."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from tga_jax.analysis.hidden_states import PAPERS
from tga_jax.analysis.instruments import nearest_words
from tga_jax.analysis.per_sample import Recorder
from tga_jax.analysis.samples import pair, to_batch
from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError
from tga_jax.inference.decode import language_model
from tga_jax.inference.model import Model


@dataclasses.dataclass(frozen=True)
class Lens:
    """One picture and one question. Curves are by layer, 0 (the input embeddings) to L.

    picture, text: the probability that the answer begins with a refusal token, read from the last position in the logit
    lens, for the picture and for its caption in the picture's place; cosine: cos(I_j, C_j). words: for every image
    token the word whose embedding is nearest, with the cosine. causes: [L - window + 1], the probability of a refusal
    in the picture's run if `window` blocks from this one on read the caption's states in the picture's place. Without a
    caption, text, cosine and causes are None.
    """

    picture: list[float]
    text: list[float] | None
    cosine: list[float] | None
    words: list[tuple[str, float]]
    window: int
    causes: list[float] | None


def look(
    model: Model, refusal_ids: Sequence[int], pixels: np.ndarray, question: str, caption: str, template: str = "chat"
) -> Lens:
    """model: with stacked blocks (`load(..., stacked=True)`); refusal_ids: the tokens that begin a refusal; pixels: a
    picture as `processor.kept` gives it; caption: "" if there is none; template: one of
    `templates.TEMPLATES`, "chat" for the checkpoint's. Raises UserError for a prompt that the model cannot take."""
    if IMAGE in question + caption:
        raise UserError(f"{IMAGE} in the question or the caption, expected text alone")
    sample = pair(model, template, f"{IMAGE}\n{question}", caption, pixels)
    assert sample.image is not None
    config: Any = model.config
    window = max(1, round(language_model(config).num_layers / 8))
    [line], _ = Recorder(model, tuple(refusal_ids), PAPERS, image_tokens=False, window=window, batch=1).lines([sample])
    batch = to_batch(model, [sample.image], 1)
    found = nearest_words(config, model.params, batch, count=int(batch.image_mask.sum()))
    ids, cosines = (np.asarray(x)[0].tolist() for x in found)
    words = [model.processor.decode([id]).strip() or "␣" for id in ids]
    return Lens(
        picture=line["runs"]["image"]["probability"],
        text=line["runs"]["text"]["probability"] if caption else None,
        cosine=line.get("cosine"),
        words=list(zip(words, cosines, strict=True)),
        window=window,
        causes=line["ablation"]["probability"]["windows"] if caption else None,
    )
