"""Guides that act on single positions, through the sequence's text twin.

The twin of a sequence has the caption's words in the picture's place (`llava.text_twin`): image token p of P stands
where word (p - P) mod C of a "repeated" caption does, or word floor(p C / P) of a "stretched" one. h_jt is the
sequence's and g_jt the twin's state at layer j and position t, w_p the twin's word at image token p. No gradient flows
through g.
"""

import abc
import dataclasses

import chex
import jax
import jax.numpy as jnp

from tga_jax.data.batch import Batch
from tga_jax.errors import check_range
from tga_jax.guides.base import DECAYS, Array, Cost, Guide, Seen, States, Text, check_choice, has_pair
from tga_jax.losses import masked_mean
from tga_jax.models import llava


@dataclasses.dataclass(frozen=True, kw_only=True)
class Twin(Guide):
    """What the two have in common: the relative squared distance to the twin's states at the matched positions M,

        error_j = sum_{t in M} |h_jt - g_jt|^2 / sum_{t in M} |g_jt|^2

    in the mean over the layers and over the samples with an image, a caption and such positions.

    layout: of the caption, "repeated" or "stretched". Repeated it reads as text does, if there are many image tokens;
    stretched, a word's place depends less on how long the words before it are, and is learned sooner.
    """

    weight: float = 1.0
    decay: str = "constant"
    layout: str = "repeated"

    def __post_init__(self):
        super().__post_init__()
        check_choice("decay", self.decay, DECAYS)
        check_choice("layout", self.layout, llava.LAYOUTS)
        check_range(self, "guide", "weight")

    def twin(self, batch: Batch) -> Array:
        """int32 [B, T]"""
        captions = batch.caption_tokens, batch.caption_mask
        return llava.text_twin(batch.tokens, batch.image_mask, *captions, self.layout)

    @abc.abstractmethod
    def matched(self, batch: Batch) -> Array:
        """M: bool [B, T]."""

    def student(self, batch: Batch) -> States:
        return States()

    def teacher(self, batch: Batch) -> Text:
        return Text(self.twin(batch), None, States())

    def counts(self, batch: Batch) -> dict[str, Array]:
        return {"pairs": self._samples(batch).sum()}

    def cost(self, length: int, caption: int, image_tokens: int) -> Cost:
        return Cost(text=length)

    def _samples(self, batch: Batch) -> Array:
        return has_pair(batch) & self.matched(batch).any(1)

    def error(self, seen: Seen) -> Array:
        mask = self.matched(seen.batch)
        chex.assert_shape([seen.student, seen.teacher], (len(self.layers), *mask.shape, seen.embeddings.shape[1]))
        twin = seen.teacher.astype(jnp.float32)
        distance = jnp.sum(jnp.sum((seen.student.astype(jnp.float32) - twin) ** 2, -1) * mask, -1)  # [J, B]
        size = jnp.sum(jnp.sum(twin**2, -1) * mask, -1)
        error = jnp.mean(distance / jnp.maximum(size, 1e-12), axis=0)  # [B]
        return masked_mean(error, self._samples(seen.batch), seen.counts["pairs"])

    def loss(self, seen: Seen) -> tuple[Array, dict[str, Array]]:
        error = self.error(seen)
        return self.weight * DECAYS[self.decay](seen.progress) * error, {"guide_error": error}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiled(Twin):
    """Every image token is pulled to the word that stands in its place, by default at the input embeddings:

        L = weight * decay(s) * (error + vocab_weight * mean_p xent(h_0p, w_p)),    M = the image tokens

    where xent reads an image token's input embedding through the decoder's table of words. Why: the decoder reads
    refusal off the keys and values of words in its first blocks. Pooled means can agree while no single token, nor its
    norm, looks like a word; here each token must. Nearest relative: ReGap (arXiv 2505.24208).
    """

    kind: str = "tiled"
    layers: tuple[int, ...] = (0,)
    vocab_weight: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        check_range(self, "guide", "vocab_weight")

    def matched(self, batch: Batch) -> Array:
        return batch.image_mask

    def counts(self, batch: Batch) -> dict[str, Array]:
        words = (batch.image_mask & has_pair(batch)[:, None]).sum()
        return {**super().counts(batch), **({"words": words} if self.vocab_weight else {})}

    def cost(self, length: int, caption: int, image_tokens: int) -> Cost:
        return Cost(text=length, words=image_tokens if self.vocab_weight else 0)

    def loss(self, seen: Seen) -> tuple[Array, dict[str, Array]]:
        error, batch = self.error(seen), seen.batch
        loss, metrics = error, {"guide_error": error}
        if self.vocab_weight:
            where = llava.marked(batch.image_mask, seen.image_tokens)  # those of a row without image do not count
            image = jnp.take_along_axis(seen.inputs, where[..., None], axis=1).astype(jnp.float32)
            log_probs = jax.nn.log_softmax(image @ seen.embeddings.astype(jnp.float32).T)  # [B, P, V]
            words = jnp.take_along_axis(self.twin(batch), where, axis=1)  # [B, P]
            counted = jnp.take_along_axis(batch.image_mask, where, axis=1) & has_pair(batch)[:, None]
            xent = -jnp.take_along_axis(log_probs, words[..., None], -1)[..., 0]
            hits = (jnp.argmax(log_probs, -1) == words).astype(jnp.float32)
            loss += self.vocab_weight * masked_mean(xent, counted, seen.counts["words"])
            metrics["guide_words"] = masked_mean(hits, counted, seen.counts["words"])
        return self.weight * DECAYS[self.decay](seen.progress) * loss, metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction(Twin):
    """The positions from the picture to the answer are pulled to the twin's:

        L = weight * decay(s) * error,    M = the positions after the picture and before the answer

    There the twin's states already hold its refusal, so that on harmful pictures this is distillation and not transfer;
    it is here to be told apart from `Tiled`.
    """

    kind: str = "instruction"

    def matched(self, batch: Batch) -> Array:
        image = batch.image_mask
        behind = (jnp.cumsum(image, axis=1) == image.sum(1, keepdims=True)) & ~image
        return batch.valid & behind & (jnp.cumsum(batch.targets, axis=1) == 0)
