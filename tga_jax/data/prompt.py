"""Texts in pieces: what a template writes, apart from what somebody wrote."""

import dataclasses
from collections.abc import Iterable

IMAGE = "<image>"


@dataclasses.dataclass(frozen=True)
class Piece:
    """A run of text. literal: special tokens and `IMAGE` within it are plain text, since it is not the template's but
    what somebody wrote; elsewhere `IMAGE` stands for the image's tokens."""

    text: str
    target: bool = False
    retrieved: bool = False
    literal: bool = False


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A whole prompt that tells the template's special tokens from those that somebody wrote. `str` gives its text."""

    pieces: tuple[Piece, ...]

    def __str__(self) -> str:
        return text_of(self.pieces)


def with_images(text: str) -> list[Piece]:
    """What the user says, with pictures where `<image>` stands."""
    parts = [Piece(part, literal=True) for part in text.split(IMAGE)]
    return [piece for i, part in enumerate(parts) for piece in ([Piece(IMAGE), part] if i else [part])]


def text_of(found: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in found)
