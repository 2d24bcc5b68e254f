"""HiddenDetect: refuses where the hidden states point to a refusal (Jiang et al., 2025, arXiv 2502.14744)."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tga_jax.analysis import refusal_tokens
from tga_jax.analysis.hidden_states import logit_lens
from tga_jax.data.prompt import Prompt
from tga_jax.errors import UserError
from tga_jax.evals.asking import LENGTHS, Asker, Question
from tga_jax.evals.defences import calibration
from tga_jax.evals.defences.base import Answered, load_pictures, prompts_of, unless_flagged


def refusal_scores(
    ask: Asker, prompts: Sequence[Prompt], pictures: Sequence[Sequence[Any]], ids: Sequence[int]
) -> np.ndarray:
    """float [L+1, B]: at each layer the cosine of the logit lens at the last position and the refusal vector, which is
    one at the tokens `ids` and zero elsewhere."""
    batch = ask.model.processor.batch(prompts, pictures, LENGTHS)
    lens = np.asarray(logit_lens(ask.model.config, ask.model.params, batch), np.float64)
    lens -= lens.mean(-1, keepdims=True)  # logits up to a constant
    vector = np.zeros(lens.shape[-1])
    vector[list(ids)] = 1.0
    vector -= vector.mean()
    return lens @ vector / np.maximum(np.linalg.norm(lens, axis=-1) * np.linalg.norm(vector), 1e-12)


@dataclasses.dataclass(frozen=True)
class Detector:
    """Refuses where the mean score of the layers is above the threshold."""

    refusal_ids: tuple[int, ...]
    layers: tuple[int, ...]
    threshold: float
    name: str = "detector"
    system: str | None = None

    @property
    def chosen(self) -> dict[str, Any]:
        return {"layers": list(self.layers), "threshold": round(self.threshold, 4)}

    def score(self, ask: Asker, prompts: Sequence[Prompt], pictures: Sequence[Sequence[Any]]) -> np.ndarray:
        """float [B]."""
        return refusal_scores(ask, prompts, pictures, self.refusal_ids)[list(self.layers)].mean(0)

    def answer(self, ask: Asker, questions: Sequence[Question]) -> list[Answered]:
        pictures = load_pictures(questions)
        scores = self.score(ask, prompts_of(ask, questions, pictures), pictures)
        flagged = [bool(score > self.threshold) for score in scores]
        notes = [{"detected": own, "score": round(float(s), 4)} for own, s in zip(flagged, scores, strict=True)]
        return unless_flagged(ask, questions, pictures, flagged, notes)


def calibrate(
    ask: Asker,
    prompts: Sequence[Prompt],
    harmful: Sequence[bool],
    refusal_ids: Sequence[int],
    false_alarms: float = 0.05,
) -> Detector:
    """A detector from prompts without pictures of which it is known whether they are harmful.

    Its layers are those at which harmful prompts score more above benign ones than at the last layer, as HiddenDetect
    chooses them (at least the best one); its threshold lets the share `false_alarms` of the benign ones be refused at
    most. Raises UserError without prompts of both kinds.
    """
    is_harmful = np.array(harmful, bool)
    if not is_harmful.any() or is_harmful.all():
        raise UserError("calibration: expected harmful and benign prompts, at least one of each")
    ids = tuple(sorted(refusal_ids))
    parts = [
        refusal_scores(ask, prompts[i : i + ask.batch], [[]] * len(prompts[i : i + ask.batch]), ids)
        for i in range(0, len(prompts), ask.batch)
    ]
    scores = np.concatenate(parts, axis=1)
    apart = scores[:, is_harmful].mean(1) - scores[:, ~is_harmful].mean(1)
    layers = np.union1d(np.flatnonzero(apart > apart[-1]), [apart.argmax()])
    benign = np.sort(scores[layers][:, ~is_harmful].mean(0))
    # The least score that at most this share of the benign ones exceeds.
    threshold = benign[len(benign) - 1 - int(false_alarms * len(benign))]
    return Detector(ids, tuple(layers.tolist()), float(threshold))


def make(described: dict[str, Any], ask: Asker) -> Detector:
    """Calibrated by prompts in words, those of pictures with their captions. Raises UserError naming the line of the
    calibration that is wrong."""
    known = calibration.read(Path(described["calibration"]))
    tokens = refusal_tokens.find(refusal_tokens.PHRASES, ask.model.processor.vocabulary, ask.template)
    prompts = [ask.prompt(one.words, 0) for one in known]
    return calibrate(ask, prompts, [one.harmful for one in known], [token.id for token in tokens])
