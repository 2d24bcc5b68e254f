"""LLaVA's JSON with TGA's two extra fields per sample, `image_caption` (C) and `retrieved_caption` (R)."""

import json
from pathlib import Path
from typing import Any

from tga_jax.data import images
from tga_jax.data.templates import IMAGE, Record
from tga_jax.errors import UserError


def parse(sample: Any, index: int, path: Path, task: str) -> tuple[Record, str]:
    """(the record without its image, the image's file name or ""). Raises UserError naming the sample.

    A first turn from `gpt` is dropped. `<image>` is moved to the front of the first question.
    """
    if not isinstance(sample, dict):
        raise UserError(f"{path}: sample {index} is a {type(sample).__name__}, expected an object")
    name = str(sample.get("id", index))

    def fail(what: str) -> UserError:
        return UserError(f"{path}: sample {name!r} {what}")

    turns = sample.get("conversations")
    if not isinstance(turns, list) or not turns:
        raise fail("has no `conversations`, expected a list of turns")
    if not all(isinstance(t, dict) and isinstance(t.get("value"), str) for t in turns):
        raise fail("has a turn without text, expected {'from': ..., 'value': ...}")
    if turns[0].get("from") == "gpt":
        turns = turns[1:]
    speakers = [turn.get("from") for turn in turns]
    if len(turns) < 2 or len(turns) % 2 or speakers != ["human", "gpt"] * (len(turns) // 2):
        raise fail(f"has speakers {speakers}, expected human and gpt in turn")
    for field in ("image", "image_caption", "retrieved_caption"):
        if not isinstance(sample.get(field) or "", str):
            raise fail(f"has {'an' if field[0] == 'i' else 'a'} `{field}` that is no text, expected a string")
    placeholders = sum(turn["value"].count(IMAGE) for turn in turns)
    image = sample.get("image") or ""
    if placeholders != bool(image):
        raise fail(f"has {placeholders} {IMAGE} and {'an' if image else 'no'} image, expected one for one")
    texts = [turn["value"].replace(IMAGE, "").strip() for turn in turns]
    pairs = list(zip(texts[::2], texts[1::2], strict=True))
    retrieved = sample.get("retrieved_caption") or ""
    if task == "caption":
        return Record(name, (("", pairs[0][1]),), caption=sample.get("image_caption") or "", template="plain"), image
    return (
        Record(
            name,
            tuple(pairs),
            caption=sample.get("image_caption") or "",
            retrieved=retrieved,
            retrieved_in_prompt=bool(retrieved),
        ),
        image,
    )


class Source:
    """A random-access source of records for Grain; images are read when asked for.

    path: the JSON file; folder: where its images lie; task: "caption" (template `plain`) or "visual";
    size: the model's image size. All samples are checked at once when the source is made.
    """

    def __init__(self, path: Path, folder: Path, task: str, size: int):
        try:
            samples = json.loads(path.read_text())
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}), expected a file in LLaVA's JSON") from error
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: not JSON ({error})") from error
        if not isinstance(samples, list) or not samples:
            raise UserError(f"{path}: expected a list of samples")
        if task not in ("caption", "visual"):
            raise UserError(f"data.task: {task!r}, expected 'caption' or 'visual' for LLaVA's JSON")
        self._records = [parse(sample, i, path, task) for i, sample in enumerate(samples)]
        self._folder, self._size = folder, size

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Record:
        record, name = self._records[index]
        if not name:
            return record
        fields = {**record.__dict__, "image": images.load(self._folder / name, self._size)}
        return Record(**fields)
