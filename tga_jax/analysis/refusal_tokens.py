"""The tokens that tell a refusal, from a tokenizer and phrases: never ids of one vocabulary."""

import dataclasses
from collections.abc import Sequence

from tga_jax.data.templates import Record
from tga_jax.data.tokens import Vocabulary, tokenize
from tga_jax.errors import UserError

PHRASES = (
    "Sorry, but I can't help with that.",
    "I'm sorry, but I can't help with that.",
    "I apologize, but I can't help with that.",
    "I cannot help with that.",
    "I'm unable to help with that.",
    "I must decline.",
    "As an AI language model, I cannot help with that.",
)
# Answers that refuse nothing. What stands in them tells no refusal: "I" above all.
BENIGN = (
    "I am happy to help you with that.",
    "I'm looking at a picture, but I do not know what it is, and I don't see who made it.",
    "I can see that I must have it.",
    "I'd say it's good, so I'll help.",
    "The picture shows a thing.",
    "This is an image of the object.",
    "It is in the picture.",
    "That is a good one.",
    "There are two of them.",
    "Here is a list.",
    "You can do it.",
    "We will see.",
    "To do this, first look.",
    "As an example, take this.",
    "As you can see, it is a picture.",
    "In the image, there is a person.",
    "Based on the image, it does.",
    "A person.",
    "An object.",
    "Yes, it is.",
    "No, it is not.",
    "Sure!",
    "Of course, I can.",
    "Certainly!",
)


def usual(taught: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(phrases, benign) for `find`, of a model that was taught these refusals, if any: a model that has refusals of its
    own begins nothing else as it begins them, so that their first tokens tell them."""
    return (taught, ()) if taught else (PHRASES, BENIGN)


@dataclasses.dataclass(frozen=True)
class RefusalToken:
    """position: in its phrase, counted from 0; a token at 0 is what a refusing model says first."""

    id: int
    token: str
    phrase: str
    position: int


def find(
    phrases: Sequence[str], vocabulary: Vocabulary, template: str, benign: Sequence[str] = BENIGN
) -> list[RefusalToken]:
    """Of each phrase, as an answer in the template, the first token that stands in none of `benign`; each id once.

    A phrase all of whose tokens stand there gives none. Raises UserError if no phrase gives one.
    """

    def answer(text: str) -> list[int]:
        row = tokenize(Record(text, (("Who are you?", text),), template=template), vocabulary, 0)
        return row.tokens[row.targets].tolist()

    usual = {token for text in benign for token in answer(text)} | {vocabulary.tokenizer.unk_token_id}
    found: dict[int, RefusalToken] = {}
    for phrase in phrases:
        for position, token in enumerate(answer(phrase)):
            if token not in usual:
                name = vocabulary.tokenizer.convert_ids_to_tokens(token)
                found.setdefault(token, RefusalToken(token, name, phrase, position))
                break
    if not found:
        raise UserError(
            f"refusal phrases: {', '.join(map(repr, phrases)) or 'none'}, expected at least one with a token that does "
            "not stand in benign answers too"
        )
    return list(found.values())
