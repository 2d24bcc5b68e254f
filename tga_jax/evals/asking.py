"""Asking a checkpoint: questions with their pictures to prompts, prompts to answers."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from PIL import Image

from tga_jax.data.prompt import IMAGE, Prompt
from tga_jax.data.templates import Record, pieces
from tga_jax.errors import UserError
from tga_jax.evals.benchmark import BenchmarkSample
from tga_jax.inference.model import Model

LENGTHS = 64  # prompts are padded to multiples of it: a program is compiled for each length


@dataclasses.dataclass(frozen=True)
class Question:
    """A sample in one of its forms. number: among the benchmark's questions; input: "image" or "text"."""

    number: int
    sample: BenchmarkSample
    input: str

    @property
    def text(self) -> str:
        if self.input == "image" or not self.sample.images:
            return self.sample.question
        assert self.sample.text is not None
        return self.sample.text

    @property
    def images(self) -> tuple[Callable[[], Image.Image], ...]:
        return self.sample.images if self.input == "image" else ()


def questions(samples: Iterable[BenchmarkSample], sees: bool) -> list[Question]:
    """All with pictures, then all as text; sees: whether the model has a vision tower."""
    found = list(samples)
    shown = [(sample, "image") for sample in found if sample.images and sees]
    told = [(sample, "text") for sample in found if not sample.images or sample.text is not None]
    return [Question(number, *pair) for number, pair in enumerate(shown + told)]


@dataclasses.dataclass(frozen=True)
class Asker:
    """template: one of `templates.TEMPLATES`, "chat" for the checkpoint's own; system: a system text, None for the
    template's; batch: how many are answered at once; sampling: the fields of `Sampling`, greedy by default;
    special_tokens: those in questions are tokens."""

    model: Model
    template: str
    system: str | None
    new_tokens: int
    batch: int
    seed: int = 0
    sampling: dict[str, Any] = dataclasses.field(default_factory=dict)
    special_tokens: bool = False

    def prompt(self, question: str, pictures: int, before: Sequence[tuple[str, str]] = ()) -> Prompt:
        """before: earlier turns, in text. Raises UserError for a question with more `<image>` than pictures, and where
        the template can not render it, or has no place for the system text."""
        count = pictures - question.count(IMAGE)
        if count < 0:
            raise UserError(
                f"question {question[:60]!r}: {question.count(IMAGE)} times {IMAGE} and {pictures} pictures"
            )
        record = Record(
            "question",
            (*before, (f"{IMAGE}\n" * count + question, None)),
            (lambda: None,) * pictures,
            template=self.template,
            system=self.system,
            special_tokens=self.special_tokens,
        )
        return Prompt(tuple(pieces(record, self.model.processor.tokenizer, prompt_only=True)))

    def answers(
        self,
        prompts: Sequence[Prompt],
        pictures: Sequence[Sequence[Image.Image]],
        numbers: Sequence[int],
        new_tokens: int | None = None,
    ) -> list[str]:
        """numbers: of the questions, from which sampling's keys come."""
        if not prompts:
            return []
        return self.model.generate(
            prompts,
            pictures,
            new_tokens=self.new_tokens if new_tokens is None else new_tokens,
            seed=self.seed,
            batch_size=self.batch,
            multiple=LENGTHS,
            numbers=numbers,
            **self.sampling,
        )
