"""Prompt templates: a record becomes pieces of text, each marked as context or target. No tokens yet.

Label masks are built from these pieces' token counts and never by searching the text.
"""

import dataclasses
from typing import Any

from tga_jax.errors import UserError

IMAGE = "<image>"


@dataclasses.dataclass(frozen=True)
class Record:
    """One training or test sample. A last answer of None is left open: the language loss learns nothing from it."""

    id: str
    turns: tuple[tuple[str, str | None], ...]  # (question, answer); `plain` has one turn with an empty question
    image: Any = None  # uint8 [I, I, 3] or float features [P, D]; None: text only
    caption: str = ""  # C: what the image shows; empty: none
    retrieved: str = ""  # R: the nearest other text; empty: none
    retrieved_in_prompt: bool = False
    template: str = "mistral_instruct"


@dataclasses.dataclass(frozen=True)
class Piece:
    text: str  # IMAGE stands for the image's tokens
    target: bool = False
    retrieved: bool = False


def _plain(record: Record) -> list[Piece]:
    """`<image>` + caption + newline, loss on caption and newline (LLaVA's stage 1); text only: the question first."""
    question, answer = record.turns[0]
    context = [Piece(IMAGE)] if record.image is not None else [Piece(question + " ")] if question else []
    return context if answer is None else [*context, Piece(answer + "\n", target=True)]


def _mistral_instruct(record: Record) -> list[Piece]:
    """`[INST] question [/INST] answer</s>` per turn; the image, and R before it, stand in the first question."""
    pieces = []
    for i, (question, answer) in enumerate(record.turns):
        pieces.append(Piece("[INST] "))
        if i == 0 and record.retrieved_in_prompt and record.retrieved:
            pieces += [Piece("Retrieved Text: "), Piece(record.retrieved, retrieved=True), Piece(". ")]
        if i == 0 and record.image is not None:
            pieces += [Piece(IMAGE), Piece("\n")]
        pieces.append(Piece(f"{question} [/INST] "))
        if answer is not None:
            pieces.append(Piece(f"{answer}</s>", target=True))
    return pieces


def _clip(record: Record) -> list[Piece]:
    """The caption and the end token, at which CLIP's text tower is read; the image is not part of the sequence."""
    return [Piece((record.turns[0][1] or "") + "</s>", target=True)]


TEMPLATES = {"clip": _clip, "plain": _plain, "mistral_instruct": _mistral_instruct}


def pieces(record: Record) -> list[Piece]:
    """The record in its template. Raises UserError for an unknown template or a record without any turn."""
    if record.template not in TEMPLATES:
        raise UserError(
            f"sample {record.id!r}: unknown template {record.template!r}, expected one of {', '.join(TEMPLATES)}"
        )
    if not record.turns:
        raise UserError(f"sample {record.id!r}: no question and answer, expected at least one turn")
    return TEMPLATES[record.template](record)


def prompt_pieces(record: Record) -> list[Piece]:
    """The record up to where its last answer would start."""
    full = pieces(record)
    return full if record.turns[-1][1] is None else full[:-1]
