"""What a guide is, and how one is made.

A guide is a loss that pulls hidden states of the multimodal sequence, the student, to those that the same decoder
computes for a text, the teacher. In every training step

    1. `student(batch)` says what to read of the hidden states of the multimodal pass,
    2. `teacher(batch)` names the text of a second pass, and what to read of that one (None: no second pass),
    3. both passes run, up to the last of the guide's `layers` where nothing else needs the blocks above,
    4. `loss(seen)` gets both and returns the guide's loss, which is added to the language loss.

A guide of your own is one class, in any file: inherit `Guide`, write the methods below, and name the class in the
config, `config.loss.guide = {"kind": "my_lab.margin:Margin", ...}`; see `configs/fork_guide.py`.

Dimension letters: B rows, T positions of the sequence, U positions of the teacher's text, S segments, J guide layers, D
hidden, V vocabulary.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from tga_jax import config
from tga_jax.data.batch import Batch

Array = jax.Array

DECAYS = {
    "constant": lambda s: jnp.ones_like(s),
    "linear": lambda s: 1.0 - s,
    "quadratic": lambda s: (1.0 - s) ** 2,
}


# A config's `kind` -> where the class is.
KINDS = {
    "paper": "tga_jax.guides.pooled:Paper",
    "released": "tga_jax.guides.pooled:Released",
    "tiled": "tga_jax.guides.twin:Tiled",
    "transport": "tga_jax.guides.transport:Transport",
    "instruction": "tga_jax.guides.twin:Instruction",
}


class Means(NamedTuple):
    """Read the mean state of each segment, [J, B, S, D]; zeros where a segment is empty. A single position is a segment
    of one."""

    segments: Array  # bool [B, S, T], or [B, S, U] of a text


class States(NamedTuple):
    """Read the states of all positions, [J, B, T, D]. They are kept for the gradient: a gigabyte or more a row and
    pass of a 7B model, so ask for `Means` if means are enough."""


class Text(NamedTuple):
    """A text-only pass of the current decoder; no gradient flows through it."""

    tokens: Array  # int32 [B, U]
    valid: Array | None  # bool [B, U]; None: the sequence's own, whose tokens these replace one by one (U = T)
    reads: Means | States


class Seen(NamedTuple):
    """What a guide's loss is computed from."""

    batch: Batch
    student: Array  # of the multimodal pass, as `student` asked: [J, B, S, D] or [J, B, T, D]
    teacher: Any  # of the text-only pass, as `teacher` asked, an Array without gradient; None if it asked for none
    inputs: Array  # input embeddings of the multimodal pass [B, T, D]
    embeddings: Array  # the decoder's table [V, D]; without gradient
    image_tokens: int  # P, of all pictures of a row
    progress: Array  # s: steps done / all steps, from 0 to 1
    # Of `counts`, over all rows of the step. The batch may be a part of them (optim.accumulate): a mean whose sum is
    # divided by this count adds up to that of the whole step.
    counts: Mapping[str, Array]
    # The captions of all rows of the step: int32 [B', C], -1 where there is no word.
    captions: Array


class Cost(NamedTuple):
    """What a guide computes beside the language loss, for a row with pictures."""

    text: int = 0  # U; 0: no text-only pass
    words: int = 0  # positions compared with the whole vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Guide(abc.ABC):
    """Raises ValueError for a layer below 0.

    layers: 0 is the input embeddings and j the output of block j; (): all blocks, 1 to N.
    """

    kind: str = ""  # by which a config names the class
    layers: tuple[int, ...] = ()

    def __post_init__(self):
        if self.layers and min(self.layers) < 0:
            raise ValueError(f"guide.layers: {self.layers}, expected layers from 0 up")

    @classmethod
    def of_kind(cls, kind: Any) -> tuple[str, type["Guide"]]:
        """(its name, the class) of a config's `kind`: one of `KINDS`, `module:Class`, `file.py:Class` or a class.
        Raises ValueError."""
        return config.find_class(kind, cls, KINDS)

    def on(self, blocks: int) -> Self:
        """The guide with its layers named, on a decoder of so many blocks. Raises ValueError for a layer above."""
        if self.layers and max(self.layers) > blocks:
            raise ValueError(f"guide.layers: {self.layers}, expected at most {blocks}, the decoder's blocks")
        return self if self.layers else dataclasses.replace(self, layers=tuple(range(1, blocks + 1)))

    @abc.abstractmethod
    def student(self, batch: Batch) -> Means | States:
        """What to read of the multimodal pass."""

    @abc.abstractmethod
    def teacher(self, batch: Batch) -> Text | None:
        """The text-only pass that the student is compared with."""

    @abc.abstractmethod
    def counts(self, batch: Batch) -> dict[str, Array]:
        """Name -> the number of samples (or tokens) of this batch that a mean of the loss is taken over; all 0 where
        the guide does not act. The arrays may be NumPy's or JAX's, and the batch may come without images."""

    @abc.abstractmethod
    def loss(self, seen: Seen) -> tuple[Array, dict[str, Array]]:
        """The loss, and metrics to log; each a sum over the batch divided by one of `seen.counts`."""

    @abc.abstractmethod
    def cost(self, length: int, caption: int, image_tokens: int) -> Cost:
        """length: T; caption: C, caption positions of a batch; image_tokens: P of a row."""


def has_pair(batch: Batch) -> Array:
    """bool [B]: the sample has an image and a caption."""
    return batch.image_mask.any(1) & batch.caption_mask.any(1)


def check_choice(name: str, value: str, known: Mapping[str, object] | tuple[str, ...]) -> None:
    """Raises ValueError."""
    if value not in known:
        raise ValueError(f"guide.{name}: {value!r}, expected one of {', '.join(known)}")
