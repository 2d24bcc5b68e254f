"""Pictures to pick from on the page: a folder as `tga demo --pictures-to` writes it."""

import dataclasses
from pathlib import Path

from tga_jax.data import llava_json
from tga_jax.data.open_samples import open_samples
from tga_jax.data.templates import IMAGE
from tga_jax.errors import UserError

FILE = "pairs.jsonl"


@dataclasses.dataclass(frozen=True)
class Example:
    """harmful: None if the file does not say."""

    id: str
    file: Path
    question: str
    caption: str
    harmful: bool | None


def read(folder: Path) -> dict[str, Example]:
    """By id, in the order of `pairs.jsonl`, which is read as `tga analyze` does; pictures are relative to the folder.

    Raises UserError naming the sample without a picture of its own, with a picture outside the folder, or with the id
    of an earlier one.
    """
    samples = open_samples(folder / FILE)
    examples: dict[str, Example] = {}
    for number in range(len(samples)):
        value, where = samples[number], samples.where(number)
        sample = llava_json.parse(value, where, question_only=True)

        def wrong(what: str, where: str = where, id: str = sample.id) -> UserError:
            return UserError(f"{where}: sample {id!r} {what}")

        if len(sample.images) != 1:
            raise wrong(f"has {len(sample.images)} pictures, expected one")
        if sample.id in examples:
            raise wrong("has the id of an earlier one, expected another")
        file = (folder / sample.images[0]).resolve()
        if not file.is_relative_to(folder.resolve()):
            raise wrong(f"has the picture {sample.images[0]!r}, expected one inside {folder}")
        harmful = value.get("harmful")
        if not isinstance(harmful, bool | None):
            raise wrong(f"has {harmful!r} as `harmful`, expected true or false")
        question = sample.turns[0][0].replace(IMAGE, "").strip()
        examples[sample.id] = Example(sample.id, file, question, sample.caption, harmful)
    return examples
