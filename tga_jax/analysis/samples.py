"""What is looked into: samples of LLaVA's JSON as prompts, the picture's and the caption's, and batches of them."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tga_jax.data import images, llava_json
from tga_jax.data.batch import Batch
from tga_jax.data.media import Store
from tga_jax.data.open_samples import Samples
from tga_jax.data.templates import IMAGE, Record
from tga_jax.data.tokens import Tokens, tokenize
from tga_jax.errors import UserError
from tga_jax.inference.model import Model

GROUPS = {True: "harmful", False: "benign", None: "unlabelled"}
_LENGTHS = 64  # of which padded lengths are multiples: a program is compiled for each


class Prompt(NamedTuple):
    row: Tokens
    pictures: Sequence[np.ndarray]  # one, as `Processor.kept` gives it, or none


@dataclasses.dataclass(frozen=True)
class PromptPair:
    """image: the prompt with its picture, and the caption, if it has one; text: the prompt with the caption once in the
    picture's place, or as it is without a picture. None for what there is not."""

    id: str
    group: str
    image: Prompt | None
    text: Prompt | None
    has_caption: bool  # beside a picture


def pair(
    model: Model,
    template: str,
    question: str,
    caption: str = "",
    picture: np.ndarray | None = None,
    *,
    id: str = "",
    harmful: bool | None = None,
) -> PromptPair:
    """The prompts of one question, in which `<image>` stands for the picture, as `Processor.kept` gives it.

    template: one of `templates.TEMPLATES`; caption: "" if there is none. Raises UserError for a prompt that is longer
    than the model's context.
    """
    image = text = None
    if picture is not None:
        image = _prompt(model, template, question, caption, [picture])
    if caption or picture is None:
        text = _prompt(model, template, question.replace(IMAGE, caption), "", [])
    return PromptPair(id, GROUPS[harmful], image, text, bool(image and caption))


def _prompt(model: Model, template: str, question: str, caption: str, pictures: Sequence[np.ndarray]) -> Prompt:
    record = Record("", ((question, None),), (lambda: None,) * len(pictures), caption=caption, template=template)
    processor = model.processor
    row = tokenize(record, processor.vocabulary, processor.positions(pictures), prompt_only=True)
    longest = max(len(row.tokens), len(row.caption))
    if model.context is not None and longest > model.context:
        raise UserError(f"takes {longest} tokens, expected at most {model.context}")
    return Prompt(row, pictures)


def to_batch(model: Model, prompts: Sequence[Prompt], size: int) -> Batch:
    """`size` rows, the last prompt repeated; lengths rounded up."""
    prompts = [*prompts, *[prompts[-1]] * (size - len(prompts))]
    longest, caption = (max(len(getattr(p.row, name)) for p in prompts) for name in ("tokens", "caption"))
    length, captions = longest + -longest % _LENGTHS, caption + (1 - caption) % _LENGTHS  # behind the begin token
    rows, pictures = [p.row for p in prompts], [p.pictures for p in prompts]
    return model.processor.collated(rows, pictures, length, captions)


@dataclasses.dataclass(frozen=True)
class PromptPairs:
    """Samples by number. store: where pictures lie; None: there are none. template: one of `templates.TEMPLATES`."""

    file: Samples
    store: Store | None
    model: Model
    template: str

    def __len__(self) -> int:
        return len(self.file)

    def __getitem__(self, number: int) -> PromptPair:
        """Raises UserError naming the file, the line and the sample for one that cannot be looked into."""
        where = self.file.where(number)
        value = self.file[number]
        parsed = llava_json.parse(value, where, question_only=True)
        harmful = value.get("harmful")
        question = parsed.turns[0][0]
        try:
            if not isinstance(harmful, bool | None):
                raise UserError(f"has {harmful!r} as `harmful`, expected true or false")
            if len(parsed.images) > 1:
                raise UserError(f"has {len(parsed.images)} pictures, expected one at most")
            if IMAGE in parsed.caption:
                raise UserError(f"has {IMAGE} in `image_caption`, expected it in questions alone")
            picture = self._picture(parsed.images[0]) if parsed.images else None
            about = {"id": parsed.id, "harmful": harmful}
            return pair(self.model, self.template, question, parsed.caption, picture, **about)
        except UserError as error:
            raise UserError(f"{where}: sample {parsed.id!r}: {error}") from error

    def _picture(self, name: str) -> np.ndarray:
        if not self.model.processor.image_tokens:
            raise UserError("has a picture, which this checkpoint cannot see; expected text alone")
        if self.store is None:
            raise UserError("has a picture, expected --images, where pictures lie")
        return self.model.processor.kept(images.decode(self.store.read(name), name))
