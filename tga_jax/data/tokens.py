"""Records to token arrays: image placeholders expanded, label masks built piece by piece, static lengths.

Dimension letters: T tokens of a sequence, C of a caption, B samples, M images, I image size, P image tokens, D width.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tokenizers

from tga_jax.data.batch import Batch
from tga_jax.data.prompt import IMAGE, Piece, Prompt, text_of
from tga_jax.data.templates import Record, pieces
from tga_jax.errors import UserError

ImageTokens = int | tuple[int, ...]
_BREAK = "\ufdd0\ufdd1"  # noncharacters of Unicode, which no text has
_CUT = -1  # among ids: an image


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

    def __reduce__(self) -> tuple[Any, ...]:
        """For other processes: without what is kept."""
        return type(self), (self.tokenizer, self.rows)

    # Kept, because the tokenizer looks its special tokens up anew each time: a tenth of a short record's time.
    @functools.cached_property
    def begin_text(self) -> str | None:
        return self.tokenizer.bos_token

    @functools.cached_property
    def pad_id(self) -> int:
        """What stands on padding: never read, but a row of the table all the same, since NaN would get into others."""
        pad = self.tokenizer.pad_token_id
        return 0 if pad is None or (self.rows is not None and pad >= self.rows) else pad

    def read(self, texts: str | Sequence[str], **how: Any) -> Any:
        """What the tokenizer makes of texts. Raises UserError where it cannot, as without a token for what is unknown
        to it."""
        try:
            return self.tokenizer(texts, **how)
        except Exception as error:
            if type(error) is not Exception:  # which is what tokenizers raises
                raise
            raise UserError(f"the tokenizer cannot read {str(texts)[:60]!r}: {error}") from error

    @functools.cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        bare, full = (self.read("a", add_special_tokens=special)["input_ids"] for special in (False, True))
        start = next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)
        before, after = full[:start], full[start + len(bare) :]
        self.check(np.array(before + after, np.int32))
        return tuple(before), tuple(after)

    @property
    def begin(self) -> tuple[int, ...]:
        """What the tokenizer puts before every text: a begin token, or nothing."""
        return self._around[0]

    @property
    def end(self) -> tuple[int, ...]:
        """What the tokenizer puts after every text: CLIP's an end token, a language model's nothing."""
        return self._around[1]

    @functools.cached_property
    def caption_begin(self) -> int:
        """What a caption is read after: a first token of its own would be seen by none before it."""
        known = [*self.begin[:1], self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.pad_id]
        return next(i for i in known if i is not None)

    @functools.cached_property
    def image_id(self) -> int | None:
        """Of `<image>`, where it is a token of the tokenizer: the text around it is then tokenised with it in place, as
        transformers' processors do, and otherwise apart, as LLaVA does. With a tokenizer that puts a blank before a
        text, Llama's, that is one token more behind every image."""
        found = self.tokenizer.added_tokens_decoder.items()
        return next((i for i, token in found if token.content == IMAGE), None)

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

    def unknown(self, text: str) -> list[str]:
        """The words of a text that the tokenizer reads as its token for what is unknown to it, each once."""
        token = self.tokenizer.unk_token_id
        words = dict.fromkeys(text.split())
        return [w for w in words if token in self.read(w, add_special_tokens=False)["input_ids"]]

    @functools.cached_property
    def control(self) -> re.Pattern[str]:
        """What a template alone may write: the special tokens, and added tokens that stand in the chat template, as
        transformers' `sanitize_control_tokens` has it, and `<image>`; blanks are text whatever they are."""
        found = self.tokenizer.chat_template or ""
        templates = "".join(found.values()) if isinstance(found, dict) else found
        words: list[str] = [
            token.content
            for token in self.tokenizer.added_tokens_decoder.values()
            if (token.special or token.content in templates or token.content == IMAGE) and not token.content.isspace()
        ]
        return re.compile("|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)) or "(?!)")

    @functools.cached_property
    def _breakable(self) -> tokenizers.Tokenizer:
        """The tokenizer, but that it leaves `_BREAK` out of a text once special tokens have been looked for, so that
        one with a break in it becomes what its characters are otherwise."""
        described = json.loads(self.tokenizer.backend_tokenizer.to_str())
        leave_out = {"type": "Replace", "pattern": {"String": _BREAK}, "content": ""}
        own = [described["normalizer"]] if described["normalizer"] else []
        described["normalizer"] = {"type": "Sequence", "normalizers": [leave_out, *own]}
        for token in described["added_tokens"]:
            if self.control.fullmatch(token["content"]):
                token["normalized"] = False  # or it would be looked for behind the normalizer
        made = tokenizers.Tokenizer.from_str(json.dumps(described))
        made.no_padding()
        made.no_truncation()
        return made

    def _literal(self, text: str, literal: tuple[tuple[int, int], ...]) -> tuple[list[int], np.ndarray]:
        """(ids, end of each in the text) where the special tokens in the spans `literal` are plain text."""
        before = np.zeros(len(text), bool)  # which characters a break stands before
        for start, end in literal:
            before[start + 1 : end] = True
        broken = "".join(_BREAK * bool(b) + c for b, c in zip(before, text, strict=True))
        origin = np.repeat(np.arange(len(text)), 1 + len(_BREAK) * before)  # a break is its next character's
        encoded = self._breakable.encode(broken, add_special_tokens=False)
        ends = np.array([end for _, end in encoded.offsets], int).reshape(-1)
        return encoded.ids, origin[np.maximum(ends - 1, 0)] + 1

    @functools.cached_property
    def segment(self) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
        """Of a text, (ids, index of the last character of each), both int32, no special tokens added; `literal`: spans
        (start, end) in which special tokens are plain text; `sees`: `image_id` needs no row in the table.

        Raises UserError as `check`.
        Few different texts recur over a small world's training, so it caches, but not so many that memory fills; so
        does `joined`.
        """

        @functools.lru_cache(4096)
        def found(
            text: str, literal: tuple[tuple[int, int], ...] = (), sees: bool = False
        ) -> tuple[np.ndarray, np.ndarray]:
            if literal:
                ids, ends = self._literal(text, literal)
            else:
                made = self.read(text, add_special_tokens=False, return_offsets_mapping=True)
                ids, ends = made["input_ids"], [end for _, end in made["offset_mapping"]]
            ids, ends = np.array(ids, np.int32), np.array(ends, np.int32).reshape(-1)
            self.check(ids[ids != self.image_id] if sees and self.image_id is not None else ids)
            return ids, np.maximum(ends - 1, 0)

        return found

    def literal(self, text: str) -> np.ndarray:
        """int32 ids of a text whose special tokens are plain text, no special tokens added."""
        return self.segment(text, _spans(self.control, text, np.ones(len(text), bool)))[0]

    @functools.cached_property
    def joined(self) -> Callable[[tuple[Piece, ...], ImageTokens], list[np.ndarray]]:
        """Of (pieces, tokens of an image, or of each): int32 [T] and three bool [T], as in Tokens. Shared: not to
        be written to."""
        return functools.lru_cache(4096)(lambda found, image_tokens: _joined(found, self, image_tokens))

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, no special tokens added."""
        return self.segment(text)[0].tolist()

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(list(ids), skip_special_tokens=True)

    @functools.cached_property
    def control_ids(self) -> np.ndarray:
        """int [N]: of what `control` finds, but for the token of unknown words, which any text may have; a byte-level
        tokenizer knows all words and may name its end token there (OLMo 2)."""
        ids = [i for i, t in self.tokenizer.added_tokens_decoder.items() if self.control.fullmatch(t.content)]
        return np.array([i for i in ids if i == self.tokenizer.eos_token_id or i != self.tokenizer.unk_token_id], int)


def _spans(control: re.Pattern[str], text: str, literal: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Where literal characters spell a special token, in part at least."""
    return tuple(found.span() for found in control.finditer(text) if literal[found.start() : found.end()].any())


class Tokens(NamedTuple):
    """A tokenised record, not padded yet."""

    tokens: np.ndarray  # int32 [T]
    targets: np.ndarray  # bool [T]
    image_mask: np.ndarray  # bool [T]
    retrieved_mask: np.ndarray  # bool [T]
    caption: np.ndarray  # int32 [C]: begin token, then the caption; the begin token alone without one


def _joined(found: Sequence[Piece], vocabulary: Vocabulary, image_tokens: ImageTokens) -> list[np.ndarray]:
    """int32 [T] and three bool [T], as in Tokens. Raises UserError for a special token that the tokenizer makes even of
    plain text."""
    begin = vocabulary.begin
    text = text_of(found)
    # Which piece every character belongs to.
    owner = np.repeat(np.arange(len(found)), [len(p.text) for p in found])
    target, retrieved, literal = (  # of the pieces, and at -1 of what no piece has
        np.array([*(getattr(p, name) for p in found), False]) for name in ("target", "retrieved", "literal")
    )
    plain = literal[owner]
    special = vocabulary.begin_text
    if special and text.startswith(special) and not plain[: len(special)].any():  # a prompt may have brought its own
        begin = ()
    spans = _spans(vocabulary.control, text, plain) if plain.any() else ()
    image_id, cuts = vocabulary.image_id, []
    if image_id is None and image_tokens:
        cuts = [m.start() for m in re.finditer(IMAGE, text) if not plain[m.start() : m.end()].any()]
    # Token by token, an image as one: its id, and the piece that it belongs to.
    ids, whose = [np.array(begin, np.int32)], [np.full(len(begin), -1)]
    start = 0
    for i, stop in enumerate([*cuts, len(text)]):
        if i:
            ids.append(np.full(1, _CUT, np.int32))
            whose.append(owner[start - 1 : start])
        if start < stop:
            own = tuple((a - start, b - start) for a, b in spans if start <= a and b <= stop)
            found_ids, last = vocabulary.segment(text[start:stop], own, bool(image_tokens))
            ids.append(found_ids)
            # A token is its last character's: "_A" of " A" belongs to the answer that begins with the blank.
            whose.append(owner[start + last])
            if own and (wrong := np.isin(found_ids, vocabulary.control_ids) & literal[whose[-1]]).any():
                token = vocabulary.tokenizer.convert_ids_to_tokens(int(found_ids[wrong][0]))
                raise UserError(
                    f"{token!r} in a text: this tokenizer has no plain text for it, expected a text without"
                )
        start = stop + len(IMAGE)
    row, whose = np.concatenate(ids), np.concatenate(whose)
    image = (row == _CUT) | (row == image_id) if image_tokens else np.zeros(len(row), bool)
    columns = np.where(image, vocabulary.pad_id, row), target[whose] & ~image, image, retrieved[whose] & ~image
    repeats = np.ones(len(row), int)
    repeats[image] = image_tokens
    joined = [np.repeat(column, repeats) for column in columns]
    for array in joined:
        array.flags.writeable = False
    return joined


def images_in(found: Sequence[Piece]) -> int:
    """How many `<image>` stand for pictures."""
    return sum(piece.text.count(IMAGE) for piece in found if not piece.literal)


def prompt_tokens(prompt: str | Prompt, vocabulary: Vocabulary, image_tokens: ImageTokens) -> Tokens:
    """A whole prompt to answer; in a string every special token is one. image_tokens: of each picture, or one number
    for all; 0 if `<image>` means nothing to the model."""
    found = prompt.pieces if isinstance(prompt, Prompt) else (Piece(prompt),)
    tokens, targets, image_mask, retrieved_mask = vocabulary.joined(found, image_tokens)
    return Tokens(tokens, targets, image_mask, retrieved_mask, np.array([vocabulary.caption_begin], np.int32))


def tokenize(record: Record, vocabulary: Vocabulary, image_tokens: ImageTokens, prompt_only: bool = False) -> Tokens:
    """A record in its template.

    image_tokens: as of `prompt_tokens`; prompt_only: up to where the last answer starts, for generation (no targets
    then). Raises UserError naming the sample if it has nothing to learn, not as many `<image>` as images, or a token
    without a row in the model's table.
    """
    found = pieces(record, vocabulary.tokenizer, prompt_only)
    try:
        tokens, targets, image_mask, retrieved_mask = vocabulary.joined(tuple(found), image_tokens)
        read = vocabulary.encode if record.special_tokens else vocabulary.literal
        caption = read(record.caption) if record.caption else ()
    except UserError as error:
        raise UserError(f"sample {record.id!r}: {error}") from error
    placed = images_in(found)
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


class Shared(NamedTuple):
    """Rows that several samples share."""

    samples: int  # of a row
    length: int  # U: positions of a row


def shared_rows(rows: Sequence[Tokens], length: int, shared: Shared) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of every row of samples padded to `length`: the places of its tokens, as `models.packing.Packing` has them, and
    the positions before its targets."""
    places, labels = [], []
    for first in range(0, len(rows), shared.samples):
        own = rows[first : first + shared.samples]
        starts = np.cumsum([0, *(len(row.tokens) for row in own[:-1])], dtype=np.int32)
        tokens = [i * length + np.arange(len(row.tokens), dtype=np.int32) for i, row in enumerate(own)]
        places.append(np.concatenate(tokens))
        labels.append(np.concatenate([start + before_targets(row) for start, row in zip(starts, own, strict=True)]))
    return places, labels


def collate(
    rows: Sequence[Tokens],
    media: Sequence[Sequence[np.ndarray]],
    vocabulary: Vocabulary,
    length: int,
    captions: int,
    labels: int | None = None,
    shared: Shared | None = None,
) -> Batch:
    """Samples and their images as a Batch of `length` positions, `captions` of captions and `labels` before targets.

    media: of each sample, uint8 [I, I, 3] or float features [P, D]; one with fewer than others gets zeros, which no
    image mask reads. Without any, the Batch has no images. shared: rows that must hold their samples; `labels` are then
    a row's.
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
    if shared is None:
        places, before = None, [before_targets(row) for row in rows]
    else:
        places, before = shared_rows(rows, length, shared)
        places = padded(places, shared.length, -1)
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
        label_positions=None if labels is None else padded(before, labels, -1),
        rows=places,
    )
