"""Prompts that are known to be harmful or benign, and the candidate that does best on those it was not made of."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from tga_jax.data import images
from tga_jax.data.samples import SampleFile
from tga_jax.errors import UserError
from tga_jax.evals.asking import Asker
from tga_jax.evals.judges.phrases import REFUSALS
from tga_jax.inference.model import Model

NEW_TOKENS = 24  # of an answer, of which the beginning says whether it refuses
_FIELDS = '{"text": "...", "harmful": true or false}, and perhaps "image" with "caption"'


@dataclasses.dataclass(frozen=True)
class Known:
    """A question, perhaps about a picture, whose caption says in words what it shows."""

    text: str
    harmful: bool
    image: Callable[[], Image.Image] | None = None
    caption: str = ""

    @property
    def words(self) -> str:
        """The question without the picture."""
        return f"{self.caption}\n{self.text}" if self.caption else self.text


def read(path: Path) -> list[Known]:
    """JSON lines or a list; pictures lie below the file's folder. Raises UserError naming the line that is wrong."""
    file, found = SampleFile(path), []
    for i in range(len(file)):
        row = file[i]
        good = isinstance(row, dict) and isinstance(row.get("text"), str) and isinstance(row.get("harmful"), bool)
        if good and ("image" in row or "caption" in row):
            good = all(isinstance(row.get(name), str) and row[name] for name in ("image", "caption"))
        if not good:
            raise UserError(f"{file.where(i)}: expected {_FIELDS}")
        image = partial(images.open_file, path.parent / row["image"]) if "image" in row else None
        found.append(Known(row["text"], row["harmful"], image, row.get("caption", "")))
    return found


def halves(known: Sequence[Known]) -> tuple[list[Known], list[Known]]:
    """Every other one of the harmful and of the benign: to make candidates from, and to choose among them.

    Raises UserError without two of each kind.
    """
    kinds = [[one for one in known if one.harmful is kind] for kind in (True, False)]
    if min(map(len, kinds)) < 2:
        raise UserError("calibration: expected harmful and benign prompts, at least two of each")
    return [one for kind in kinds for one in kind[::2]], [one for kind in kinds for one in kind[1::2]]


@dataclasses.dataclass(frozen=True)
class Chosen:
    """settings: those of the best candidate; refused, false_alarms: its shares on the calibration prompts."""

    model: Model
    settings: dict[str, float]
    refused: float
    false_alarms: float

    def to_json(self) -> dict[str, Any]:
        rates = {"refused": self.refused, "false_alarms": self.false_alarms}
        return {name: round(value, 4) for name, value in {**self.settings, **rates}.items()}


def choose(
    candidates: Sequence[tuple[dict[str, float], Model]], shares: Callable[[Model], tuple[float, float]]
) -> Chosen:
    """The candidate with most refusals of harmful prompts less those of benign ones, of equals the first.

    shares: a model's share of harmful and of benign calibration prompts that are refused. Raises UserError without
    candidates.
    """
    if not candidates:
        raise UserError("calibration: no candidates, expected at least one")
    found = [Chosen(model, settings, *shares(model)) for settings, model in candidates]
    return max(found, key=lambda one: one.refused - one.false_alarms)


def refused(ask: Asker, known: Sequence[Known], model: Model) -> tuple[float, float]:
    """The shares of the harmful and of the benign, shown where they have a picture, that this model refuses by the
    patterns of `judges.phrases`."""
    prompts = [ask.prompt(one.text, int(one.image is not None)) for one in known]
    pictures = [[one.image()] if one.image else [] for one in known]
    asker = dataclasses.replace(ask, model=model)
    answers = asker.answers(prompts, pictures, range(len(known)), NEW_TOKENS)
    refusals = [REFUSALS.verdict(answer) == "refusal" for answer in answers]
    shares = []
    for kind in (True, False):
        own = [refusal for refusal, one in zip(refusals, known, strict=True) if one.harmful is kind]
        shares.append(sum(own) / len(own))
    return shares[0], shares[1]
