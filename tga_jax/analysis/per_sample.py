"""What is recorded of each sample: one line of numbers by layer for its picture and for its text."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from tga_jax.analysis.hidden_states import Ranking, cosine, probe, refusal_span
from tga_jax.analysis.patching import read_from_twin, text_twins
from tga_jax.analysis.samples import Prompt, PromptPair, to_batch
from tga_jax.data.batch import Batch
from tga_jax.inference.decode import Config, language_model
from tga_jax.inference.model import Model


def rounded(values: Any) -> list[float]:
    """Six digits: more are not the model's, and files would hold little else."""
    return [float(f"{value:.6g}") for value in values]


@dataclasses.dataclass(frozen=True)
class Recorder:
    """model: of stacked blocks; refusal_ids: the tokens that tell a refusal; ranking: of `refusal_span`; image_tokens:
    whether to record the lens at every image token; window: blocks that are patched at a time, 0 for none; batch: rows
    of a forward pass."""

    model: Model
    refusal_ids: tuple[int, ...]
    ranking: Ranking
    image_tokens: bool
    window: int
    batch: int

    @property
    def config(self) -> Config:
        return self.model.config  # pyrefly: ignore a language model is part of it

    def lines(self, samples: Sequence[PromptPair]) -> tuple[list[dict[str, Any]], np.ndarray]:
        """A line for each of at most `batch` samples, and the pooled states float32 [N, 2, L+1, D] of those N that have
        a picture and a caption. Curves are by layer 0 to L; attention's is by block 1 to L, an ablation's by window."""
        lines: list[dict[str, Any]] = [{"id": sample.id, "group": sample.group, "runs": {}} for sample in samples]
        pooled = []
        shown = [(i, sample.image) for i, sample in enumerate(samples) if sample.image]
        if shown:
            pictures, found = self._probe([prompt for _, prompt in shown], self.image_tokens)
            paired = [(row, i) for row, (i, _) in enumerate(shown) if samples[i].has_caption]
            for row, (i, _) in enumerate(shown):
                attention = rounded(found["attention"][:, row])
                lines[i]["runs"]["image"] = {**self._run(found["lens"][:, row]), "attention": attention}
                if self.image_tokens:
                    own = int(pictures.image_mask[row].sum())  # others, as those of tiles, may have more
                    lines[i]["image_top"] = found["image_top"][:, row, :own].tolist()
            for row, i in paired:
                pooled.append(np.stack([found["image"][:, row], found["caption"][:, row]]))
                lines[i]["cosine"] = rounded(cosine(*pooled[-1]))
            if self.window and paired:
                ablations = self._ablations(pictures)
                for row, i in paired:
                    lines[i]["ablation"] = ablations[row]
        told = [(i, sample.text) for i, sample in enumerate(samples) if sample.text]
        if told:
            _, found = self._probe([prompt for _, prompt in told], False)
            for row, (i, _) in enumerate(told):
                lines[i]["runs"]["text"] = self._run(found["lens"][:, row])
        return lines, np.array(pooled, np.float32)

    def _probe(self, prompts: Sequence[Prompt], image_tokens: bool) -> tuple[Batch, dict[str, np.ndarray]]:
        rows = to_batch(self.model, prompts, self.batch)
        count = int(rows.image_mask.sum(1).max()) if image_tokens else 0
        return rows, jax.tree.map(np.asarray, probe(self.config, self.model.params, rows, count))

    def _run(self, lens: np.ndarray) -> dict[str, Any]:
        """lens: log-probabilities [L+1, V]."""
        start, end = refusal_span(lens, self.refusal_ids, self.ranking) or (None, None)
        top = lens.argmax(-1).tolist()
        return {
            "start": start,
            "end": end,
            "refused": top[-1] in self.refusal_ids,
            "probability": rounded(self._probability(lens)),
            "top": top,
            "top_tokens": self.model.processor.tokenizer.convert_ids_to_tokens(top),
        }

    def _probability(self, logs: np.ndarray) -> np.ndarray:
        """[..., V] -> [...]: that of all refusal tokens together."""
        return np.exp(logs[..., list(self.refusal_ids)].astype(np.float64)).sum(-1)

    def _ablations(self, picture: Batch) -> list[dict[str, Any]]:
        """For each row what the picture's prompt says where the twin is read at no block, at all, and at each window of
        blocks, by its first block."""
        twin, count = text_twins(picture), language_model(self.config).num_layers
        blocks = np.arange(count)
        windows = [(first <= blocks) & (blocks < first + self.window) for first in range(count - self.window + 1)]
        probability, refused = [], []
        for read in (blocks < 0, blocks >= 0, *windows):
            logs = np.asarray(read_from_twin(self.config, self.model.params, picture, twin, read))
            probability.append(self._probability(logs))
            refused.append(np.isin(logs.argmax(-1), self.refusal_ids))
        return [
            {
                name: {"none": values[0], "all": values[1], "windows": values[2:]}
                for name, values in (("probability", rounded(p)), ("refused", r.tolist()))
            }
            for p, r in zip(np.transpose(probability), np.transpose(refused), strict=True)
        ]
