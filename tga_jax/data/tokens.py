"""Records to token arrays: image placeholders expanded, label masks built piece by piece, static lengths.

Dimension letters: T tokens of a sequence, C of a caption, B samples, M images, I image size, P image tokens, D width.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tga_jax.data.batch import Batch
from tga_jax.data.templates import IMAGE, Piece, Record, pieces, text_of
from tga_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """A fast tokenizer of transformers, asked for ids and for where each token ends. Raises UserError for another.

    rows: of the model's embedding table; a token without a row is then an error. None: as many as the tokenizer needs.
    """

    tokenizer: Any
    rows: int | None = None

    def __post_init__(self):
        if not getattr(self.tokenizer, "is_fast", False):
            raise UserError("tokenizer: cannot tell where its tokens lie in a text, expected one with a tokenizer.json")

    # Kept, because the tokenizer looks its special tokens up anew each time: a tenth of a short record's time.
    @functools.cached_property
    def begin_text(self) -> str | None:
        return self.tokenizer.bos_token

    @functools.cached_property
    def pad_id(self) -> int:
        """What stands on padding: never read, but a row of the table all the same, since NaN would get into others."""
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None or (self.rows is not None and pad >= self.rows) else pad

    @functools.cached_property
    def begin(self) -> tuple[int, ...]:
        """What the tokenizer puts before every text: a begin token, or nothing."""
        bare, full = (self.tokenizer("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        begin = next(tuple(full[:i]) for i in range(len(full)) if full[i : i + len(bare)] == bare)
        self.check(np.array(begin, np.int32))
        return begin

    @functools.cached_property
    def caption_begin(self) -> int:
        """What a caption is read after: a first token of its own would be seen by none before it."""
        known = [*self.begin[:1], self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.pad_id]
        return next(i for i in known if i is not None)

    @functools.cached_property
    def size(self) -> int:
        """Rows that a table needs: ids may have gaps, so that there are fewer words."""
        return max(self.tokenizer.get_vocab().values()) + 1

    def check(self, ids: np.ndarray) -> None:
        """Raises UserError naming the first of these tokens that has no row in the model's table."""
        if self.rows is None:
            return
        if len(wrong := ids[(ids < 0) | (ids >= self.rows)]):
            token = self.tokenizer.convert_ids_to_tokens(int(wrong[0]))
            raise UserError(f"token {token!r} has id {wrong[0]}, and the model's embedding table {self.rows} rows")

    @functools.cached_property
    def segment(self) -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
        """(ids, index of the last character of each) of a text, both int32, no special tokens added.

        Raises UserError as `check`.
        Few different texts recur over a small world's training, so it caches, but not so many that memory fills; so
        does `joined`.
        """

        @functools.lru_cache(4096)
        def found(text: str) -> tuple[np.ndarray, np.ndarray]:
            made = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
            ids, ends = np.array(made["input_ids"], np.int32), [end for _, end in made["offset_mapping"]]
            self.check(ids)
            return ids, np.maximum(np.array(ends, np.int32).reshape(-1) - 1, 0)

        return found

    @functools.cached_property
    def joined(self) -> Callable[[tuple[Piece, ...], int], list[np.ndarray]]:
        """Of (pieces, tokens of an image): int32 [T] and three bool [T], as in Tokens. Shared: not to be written to."""
        return functools.lru_cache(4096)(lambda found, image_tokens: _joined(found, self, image_tokens))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, no special tokens added."""
        return self.segment(text)[0].tolist()

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)


class Tokens(NamedTuple):
    """A tokenised record, not padded yet."""

    tokens: np.ndarray  # int32 [T]
    targets: np.ndarray  # bool [T]
    image_mask: np.ndarray  # bool [T]
    retrieved_mask: np.ndarray  # bool [T]
    caption: np.ndarray  # int32 [C]: begin token, then the caption; the begin token alone without one


def _joined(found: Sequence[Piece], vocabulary: Vocabulary, image_tokens: int) -> list[np.ndarray]:
    """int32 [T] and three bool [T], as in Tokens."""
    begin = vocabulary.begin
    text = text_of(found)
    special = vocabulary.begin_text
    if special and text.startswith(special):  # a prompt may have brought its own
        begin = ()
    # Which piece every character belongs to.
    owner = np.repeat(np.arange(len(found)), [len(p.text) for p in found])
    target, retrieved = (np.array([getattr(p, name) for p in found], bool) for name in ("target", "retrieved"))
    nothing = np.zeros(len(begin), bool)
    columns = [[np.array(begin, np.int32)], [nothing], [nothing], [nothing]]
    start = 0
    for i, part in enumerate(text.split(IMAGE) if image_tokens else [text]):
        if i:
            image = np.ones(image_tokens, bool)
            values = (np.full(image_tokens, vocabulary.pad_id, np.int32), ~image, image, ~image)
            for column, value in zip(columns, values, strict=True):
                column.append(value)
        if part:
            ids, last = vocabulary.segment(part)
            # A token is its last character's: "_A" of " A" belongs to the answer that begins with the blank.
            whose = owner[start + last]
            for column, value in zip(columns, (ids, target[whose], ids < -1, retrieved[whose]), strict=True):
                column.append(value)
        start += len(part) + len(IMAGE)
    joined = [np.concatenate(column) for column in columns]
    for array in joined:
        array.flags.writeable = False
    return joined


def prompt_tokens(prompt: str, vocabulary: Vocabulary, image_tokens: int) -> Tokens:
    """A whole prompt to answer. image_tokens: 0 if `<image>` means nothing to the model."""
    tokens, targets, image_mask, retrieved_mask = vocabulary.joined((Piece(prompt),), image_tokens)
    return Tokens(tokens, targets, image_mask, retrieved_mask, np.array([vocabulary.caption_begin], np.int32))


def tokenize(record: Record, vocabulary: Vocabulary, image_tokens: int, prompt_only: bool = False) -> Tokens:
    """A record in its template. Texts around an image are tokenised apart, as LLaVA does.

    prompt_only: up to where the last answer starts, for generation (no targets then). Raises UserError naming the
    sample if it has nothing to learn, not as many `<image>` as images, or a token without a row in the model's table.
    """
    found = pieces(record, vocabulary.tokenizer, prompt_only)
    try:
        tokens, targets, image_mask, retrieved_mask = vocabulary.joined(tuple(found), image_tokens)
        caption = vocabulary.segment(record.caption)[0] if record.caption else ()
    except UserError as error:
        raise UserError(f"sample {record.id!r}: {error}") from error
    placed = text_of(found).count(IMAGE)
    if record.template != "clip" and placed != len(record.images):
        raise UserError(f"sample {record.id!r}: {placed} {IMAGE} and {len(record.images)} images, expected as many")
    if not prompt_only and record.turns[-1][1] is not None and not targets.any():
        raise UserError(f"sample {record.id!r}: no target token, expected an answer")
    caption = np.array([vocabulary.caption_begin, *caption], np.int32)
    return Tokens(tokens, targets, image_mask, retrieved_mask, caption)


def before_targets(row: Tokens) -> np.ndarray:
    """int32 [K]: the positions whose next token is a target."""
    return np.flatnonzero(row.targets[1:]).astype(np.int32)


def padded(rows: Sequence[np.ndarray], length: int, fill: int | bool) -> np.ndarray:
    """[B, length], each row right-padded with `fill`."""
    out = np.full((len(rows), length), fill, rows[0].dtype)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


def collate(
    rows: Sequence[Tokens],
    media: Sequence[Sequence[np.ndarray]],
    vocabulary: Vocabulary,
    length: int,
    captions: int,
    labels: int | None = None,
) -> Batch:
    """Rows and their images as a Batch of `length` positions, `captions` of captions and `labels` before targets.

    media: of each row, uint8 [I, I, 3] or float features [P, D]; a row with fewer than others gets zeros, which no
    image mask reads. Without any, the Batch has no images.
    """
    count = max(len(own) for own in media)
    stacked = None
    if count:
        example = next(own[0] for own in media if own)
        stacked = np.zeros((len(rows), count, *example.shape), example.dtype)
        for i, own in enumerate(media):
            for j, image in enumerate(own):
                stacked[i, j] = image
    is_features = stacked is not None and stacked.dtype != np.uint8
    return Batch(
        tokens=padded([row.tokens for row in rows], length, vocabulary.pad_id),
        valid=padded([np.ones(len(row.tokens), bool) for row in rows], length, False),
        targets=padded([row.targets for row in rows], length, False),
        image_mask=padded([row.image_mask for row in rows], length, False),
        retrieved_mask=padded([row.retrieved_mask for row in rows], length, False),
        caption_tokens=padded([row.caption for row in rows], captions, vocabulary.pad_id),
        caption_mask=padded([np.arange(len(row.caption)) > 0 for row in rows], captions, False),
        images=None if is_features else stacked,
        image_features=stacked if is_features else None,
        label_positions=None if labels is None else padded([before_targets(row) for row in rows], labels, -1),
    )
