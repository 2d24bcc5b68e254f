"""Records to token arrays: image placeholders expanded, label masks built piece by piece, static lengths."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from tokenizers import Tokenizer

from tga_jax.data.batch import Batch
from tga_jax.data.templates import IMAGE, Piece, Record, pieces, prompt_pieces
from tga_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and the ids of its special tokens. Raises UserError if it lacks one of them."""

    tokenizer: Tokenizer
    pad: str = "<pad>"
    begin: str = "<s>"
    end: str = "</s>"

    def __post_init__(self):
        for name in (self.pad, self.begin, self.end, "\n"):
            self.id(name)

    def id(self, token: str) -> int:
        found = self.tokenizer.token_to_id(token)
        if found is None:
            raise UserError(f"tokenizer: no token {token!r}")
        return found

    @property
    def pad_id(self) -> int:
        return self.id(self.pad)

    @property
    def begin_id(self) -> int:
        return self.id(self.begin)

    @property
    def end_id(self) -> int:
        return self.id(self.end)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """What ends an answer: the end token, or the newline of the `plain` form."""
        return (self.end_id, self.id("\n"))

    @property
    def size(self) -> int:
        return self.tokenizer.get_vocab_size()

    @functools.cached_property
    def encode(self) -> Callable[[str], tuple[int, ...]]:
        """Token ids of a text, no special tokens added. Few different pieces recur over a training, so it caches."""
        return functools.lru_cache(65536)(lambda text: tuple(self.tokenizer.encode(text, add_special_tokens=False).ids))

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()


@dataclasses.dataclass(frozen=True)
class Shape:
    """Static lengths of a batch."""

    length: int  # T
    image_tokens: int  # P: tokens an image takes
    caption_length: int  # C, with its begin token


def encode(record: Record, vocabulary: Vocabulary, shape: Shape, prompt_only: bool = False) -> Batch:
    """One record as a Batch without the batch axis.

    prompt_only: up to where the last answer starts, for generation (no targets then).
    Raises UserError naming the sample if it does not fit `shape.length` or has nothing to learn.
    """
    parts: list[Piece] = prompt_pieces(record) if prompt_only else pieces(record)
    ids, target, image, retrieved = [vocabulary.begin_id], [False], [False], [False]
    for piece in parts:
        is_image = piece.text == IMAGE
        new = (vocabulary.pad_id,) * shape.image_tokens if is_image else vocabulary.encode(piece.text)
        ids += new
        target += [piece.target] * len(new)
        image += [is_image] * len(new)
        retrieved += [piece.retrieved] * len(new)
    if len(ids) > shape.length:
        raise UserError(f"sample {record.id!r}: {len(ids)} tokens, expected at most {shape.length}")
    if not prompt_only and record.turns[-1][1] is not None and not any(target):
        raise UserError(f"sample {record.id!r}: no target token, expected an answer")
    caption = vocabulary.encode(record.caption) if record.caption else ()
    if 1 + len(caption) > shape.caption_length:
        raise UserError(
            f"sample {record.id!r}: caption of {len(caption)} tokens, expected under {shape.caption_length}"
        )

    def pad(values, length: int, fill, dtype) -> np.ndarray:
        out = np.full(length, fill, dtype)
        out[: len(values)] = values
        return out

    is_features = record.image is not None and record.image.dtype != np.uint8
    media = None if record.image is None else record.image[None]
    return Batch(
        tokens=pad(ids, shape.length, vocabulary.pad_id, np.int32),
        valid=pad([True] * len(ids), shape.length, False, bool),
        targets=pad(target, shape.length, False, bool),
        image_mask=pad(image, shape.length, False, bool),
        retrieved_mask=pad(retrieved, shape.length, False, bool),
        caption_tokens=pad((vocabulary.begin_id, *caption), shape.caption_length, vocabulary.pad_id, np.int32),
        caption_mask=pad((False,) + (True,) * len(caption), shape.caption_length, False, bool),
        images=None if is_features else media,
        image_features=media if is_features else None,
    )


def collate(rows: Sequence[Batch]) -> Batch:
    """Stacks rows; a text-only row among rows with images gets zeros, which its empty image mask never reads."""

    def stack(name: str):
        values = [getattr(row, name) for row in rows]
        example = next((v for v in values if v is not None), None)
        if example is None:
            return None
        return np.stack([np.zeros_like(example) if v is None else v for v in values])

    return Batch(**{name: stack(name) for name in Batch._fields})
