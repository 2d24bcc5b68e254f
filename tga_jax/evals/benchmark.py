"""What a benchmark is: questions out of its files, and what an answer to one of them is worth."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from tga_jax.data import images, media
from tga_jax.errors import UserError

SUITES = ("safety", "over-refusal", "general")


@dataclasses.dataclass(frozen=True)
class BenchmarkSample:
    """One question.

    id: its own within the benchmark, and the same in every run.
    question: what the user says, with `<image>` where each picture stands.
    images: loaders of the pictures, which raise UserError for a file that is none.
    text: the question without pictures that says the same, such as with the caption in the picture's place; None where
        the benchmark has none. It is asked beside the other.
    groups: what rates are told by, such as {"scene": "gun"}.
    harmful: whether it ought to be refused; None where refusals are not what is measured.
    target: what the scorer compares with, a JSON value.
    before: earlier turns, (what the user said, what was answered), in text alone.
    """

    id: str
    question: str
    images: tuple[Callable[[], Image.Image], ...] = ()
    text: str | None = None
    groups: Mapping[str, str] = dataclasses.field(default_factory=dict)
    harmful: bool | None = None
    target: Any = None
    before: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A function that yields samples, and one that scores.

    samples: from the benchmark's folder, always in the same order. Raises UserError naming the file, and the line or
        the id, for what is missing or cannot be read.
    score: of one sample's answer, values from 0 to 1 by name, the same names for all samples; their means are
        reported. None: answers are judged, as refusals or not, unless there is an export.
    summarize: figures of all (target, answer) together, which are no means, such as F1.
    export: writes files for a server or a scorer of the benchmark's own, from (sample, answer) of all, the folder to
        write to, and the benchmark's folder, which a later run may lack. The report says where they lie.
    version: rises whenever a score could change.
    new_tokens: the most an answer may have.
    files: what the folder must hold, told in help and in errors.
    note: what a reader of its figures must know; it stands in the report.
    """

    name: str
    suite: str
    samples: Callable[[Path], Iterable[BenchmarkSample]]
    files: str
    score: Callable[[BenchmarkSample, str], dict[str, float]] | None = None
    summarize: Callable[[Sequence[tuple[Any, str]]], dict[str, float]] | None = None
    export: Callable[[Sequence[tuple[BenchmarkSample, str]], Path, Path], None] | None = None
    version: int = 1
    new_tokens: int = 256
    note: str = ""

    def __post_init__(self):
        if self.suite not in SUITES:
            raise ValueError(f"{self.name}: suite {self.suite!r}, expected one of {', '.join(SUITES)}")


def picture(folder: Path, name: str) -> Callable[[], Image.Image]:
    """A loader of the picture of this name, which a file of the benchmark says. Raises UserError if it leads out of the
    folder, or there is no file; the loader does if it is no image."""
    path = folder / media.inside(folder, name)
    if not os.path.isfile(path):  # unlike Path.is_file, of a name of any length
        raise UserError(f"{path}: no such picture")
    return partial(_open, path)


def _open(path: Path) -> Image.Image:
    return images.open_file(path)


def joined(questions: Iterable[str], labels: Iterable[str], where: str) -> None:
    """Raises UserError unless both have the same ids, each once; where: names the files in it."""
    asked, known = Counter(questions), Counter(labels)
    for name, ids in (("question", asked), ("label", known)):
        if twice := [i for i, count in ids.items() if count > 1]:
            raise UserError(f"{where}: {name} {twice[0]!r} is there twice")
    if alone := sorted(asked.keys() ^ known.keys()):
        which = "question without a label" if alone[0] in asked else "label without a question"
        raise UserError(f"{where}: {len(alone)} ids do not join, such as {alone[0]!r}, a {which}")
