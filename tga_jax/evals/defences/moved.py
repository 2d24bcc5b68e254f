"""A model whose hidden states are moved by a constant vector, asked in the place of its own."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from tga_jax.evals.asking import Asker, Question
from tga_jax.evals.defences.base import Answered, just_asked, load_pictures
from tga_jax.inference.model import Model


def with_part(model: Model, part: str, params: dict[str, Any]) -> Model:
    return dataclasses.replace(model, params={**model.params, part: params})


@dataclasses.dataclass(frozen=True)
class Moved:
    model: Model
    chosen: dict[str, Any]
    name: str
    system: str | None = None

    def answer(self, ask: Asker, questions: Sequence[Question]) -> list[Answered]:
        return just_asked(dataclasses.replace(ask, model=self.model), questions, load_pictures(questions))
