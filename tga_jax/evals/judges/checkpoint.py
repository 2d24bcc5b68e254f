"""A checkpoint as judge."""

from collections.abc import Sequence
from pathlib import Path

from tga_jax.evals.asking import LENGTHS
from tga_jax.evals.judges.model import ModelJudge, Rubric
from tga_jax.inference.model import Model, load

_NEW_TOKENS = 8


def checkpoint_judges(folder: Path, dtype: str | None, batch: int, rubrics: Sequence[Rubric]) -> list[ModelJudge]:
    """One for each rubric, of one checkpoint, which is loaded when the first answer is judged: not where all verdicts
    are stored."""
    loaded: list[Model] = []

    def ask(prompts: list[str]) -> list[str]:
        if not loaded:
            loaded.append(load(folder, dtype))
        model = loaded[0]
        chats = [model.processor.chat([{"role": "user", "content": prompt}]) for prompt in prompts]
        return model.generate(chats, new_tokens=_NEW_TOKENS, batch_size=batch, multiple=LENGTHS)

    return [ModelJudge(ask, f"model {folder}", rubric) for rubric in rubrics]
