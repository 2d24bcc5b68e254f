"""What every defence is, and what several of them do."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image

from tga_jax.data.prompt import IMAGE, Prompt
from tga_jax.errors import UserError
from tga_jax.evals.asking import Asker, Question

REFUSAL = "I'm sorry, but I can't help with that."


@dataclasses.dataclass(frozen=True)
class Answered:
    """note: what a defence did on the way, a JSON object; None if it just asked."""

    prompt: str
    answer: str
    note: dict[str, Any] | None = None


class Defence(Protocol):
    """Answers questions with a checkpoint. One that was calibrated has the attribute `chosen` too, a JSON object: what
    was chosen, and its rates on the calibration's held-out half."""

    @property
    def name(self) -> str: ...

    @property
    def system(self) -> str | None: ...

    def answer(self, ask: Asker, questions: Sequence[Question]) -> list[Answered]: ...


def prompts_of(ask: Asker, questions: Sequence[Question], pictures: Sequence[Sequence[Image.Image]]) -> list[Prompt]:
    return [ask.prompt(q.text, len(p), q.sample.before) for q, p in zip(questions, pictures, strict=True)]


def just_asked(ask: Asker, questions: Sequence[Question], pictures: Sequence[Sequence[Image.Image]]) -> list[Answered]:
    """What the model answers by itself."""
    prompts = prompts_of(ask, questions, pictures)
    answers = ask.answers(prompts, pictures, [q.number for q in questions])
    return [Answered(str(prompt), answer) for prompt, answer in zip(prompts, answers, strict=True)]


def unless_flagged(
    ask: Asker,
    questions: Sequence[Question],
    pictures: Sequence[Sequence[Image.Image]],
    flagged: Sequence[bool],
    notes: Sequence[dict[str, Any]],
) -> list[Answered]:
    """`REFUSAL` to what is flagged, and the model's own answers to the rest, each with its note."""
    prompts = prompts_of(ask, questions, pictures)
    passed = [i for i, own in enumerate(flagged) if not own]
    answers = ask.answers(
        [prompts[i] for i in passed], [pictures[i] for i in passed], [questions[i].number for i in passed]
    )
    found = dict(zip(passed, answers, strict=True))
    return [
        Answered(str(prompt), found.get(i, REFUSAL), note)
        for i, (prompt, note) in enumerate(zip(prompts, notes, strict=True))
    ]


def load_pictures(questions: Sequence[Question]) -> list[list[Image.Image]]:
    """Raises UserError naming the sample whose picture cannot be read."""
    found = []
    for question in questions:
        try:
            found.append([image() for image in question.images])
        except UserError as error:
            raise UserError(f"sample {question.sample.id!r}: {error}") from error
    return found


def bare(text: str) -> str:
    """Without places of pictures: an answer may write `<image>`, too."""
    return text.replace(IMAGE, "").strip()
