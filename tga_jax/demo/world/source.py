"""The records of the demo's trainings, from the emoji scenes."""

import dataclasses
import functools
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grain
import numpy as np

from tga_jax.data.pipeline import endless
from tga_jax.data.sources import Pictures, Source
from tga_jax.data.templates import Record
from tga_jax.demo.world import tasks
from tga_jax.demo.world.concepts import caption
from tga_jax.demo.world.pictures import EmojiSplit, load_split
from tga_jax.demo.world.plan import SPLITS, EmojiScenesConfig, plan
from tga_jax.errors import UserError

TASKS = ("clip", "text", "caption", "asked", "visual")
GUIDED = ("all", "benign")


@dataclasses.dataclass(frozen=True)
class EmojiSource(Source):
    """What one training reads of the emoji scenes in the folder `path`. Raises ValueError for an unknown task.

    task: "clip" pairs pictures with captions, "text" teaches the language model, "caption" is stage 1, "asked" the same
    pictures with questions (harmful ones without an answer) and "visual" stage 2. guided: which pictures the guide may
    see the captions of.
    """

    path: str
    task: str
    scenes: dict[str, int]  # fields of EmojiScenesConfig
    attachments: str = ""  # folder of `attach`: vision features and retrieved captions computed beforehand
    text_share: float = 0.0  # of stage 2's records that are text only
    retrieved_share: float = 0.0  # of stage 2's pictures that have the retrieved text in the prompt
    guided: str = "all"  # or "benign"
    mix: tasks.TextMix = dataclasses.field(default_factory=tasks.TextMix)
    kind: str = dataclasses.field(default="tga_jax.demo.world.source:EmojiSource", kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        for name, known in (("task", TASKS), ("guided", GUIDED)):
            if getattr(self, name) not in known:
                raise ValueError(f"data.source.{name}: {getattr(self, name)!r}, expected one of {', '.join(known)}")

    def dataset(self, pictures: Pictures, seed: int) -> grain.MapDataset:
        """pictures: without effect, the scenes are drawn at the model's size."""
        return _text_records(self, seed) if self.task == "text" else _picture_records(self, seed)


@functools.lru_cache(maxsize=len(SPLITS))  # all trainings of a process read the same pictures
def emoji_split(path: str, split: str, fields: tuple[tuple[str, Any], ...]) -> EmojiSplit:
    """A split of the emoji scenes whose EmojiScenesConfig has these fields."""
    return load_split(EmojiScenesConfig(**dict(fields)), path, split)


def scenes_of(split: EmojiSplit) -> list[tasks.Scene]:
    columns = zip(split.ids, split.names, split.colors, split.captions, split.harmful, strict=True)
    return [tasks.Scene(*map(str, row[:4]), harmful=bool(row[4])) for row in columns]


def _described(fields: dict[str, Any]) -> list[tasks.Scene]:
    """What the training pictures show, once each; for text, which needs no picture to be drawn."""
    planned = plan(EmojiScenesConfig(**fields), "train")
    shown = {(concept, color) for concept, color, *_ in planned}
    captioned = sorted((caption(concept.name, color), concept, color) for concept, color in shown)
    return [tasks.Scene(text, c.name, color, text, harmful=c.scene is not None) for text, c, color in captioned]


def _text_records(config: EmojiSource, seed: int) -> grain.MapDataset:
    mix, unique = config.mix, _described(config.scenes)
    harmful, benign = ([s for s in unique if s.harmful is h] for h in (True, False))

    def build(scene: tasks.Scene, rng: np.random.Generator) -> Record:
        return tasks.text_record(scene, unique[rng.integers(len(unique))], mix, rng)

    drawn = [endless(harmful, seed), endless(benign, seed + 1)]
    return grain.MapDataset.mix(drawn, weights=[mix.harmful, 1 - mix.harmful]).seed(seed + 2).random_map(build)


def _picture_records(config: EmojiSource, seed: int) -> grain.MapDataset:
    split = emoji_split(config.path, "train", tuple(config.scenes.items()))
    scenes = scenes_of(split)
    images, retrieved = split.images, [""] * len(scenes)
    if config.attachments:
        images, retrieved = load_attachments(Path(config.attachments), "train")

    def image(i: int) -> Callable[[], np.ndarray]:
        return partial(images.__getitem__, i)

    def guided(record: Record, scene: tasks.Scene) -> Record:
        return dataclasses.replace(record, caption="") if config.guided == "benign" and scene.harmful else record

    rows = range(len(scenes))
    if config.task in ("clip", "caption"):
        template = "clip" if config.task == "clip" else "plain"
        return endless(rows, seed).map(
            lambda i: guided(tasks.caption_record(scenes[i], image(i), retrieved[i], template), scenes[i])
        )
    if config.task == "asked":
        return endless(rows, seed).random_map(
            lambda i, rng: guided(tasks.asked_record(scenes[i], image(i), retrieved[i], rng), scenes[i])
        )

    def visual(i: int, rng: np.random.Generator) -> Record:
        return tasks.visual_record(scenes[i], image(i), retrieved[i], config.retrieved_share, rng)

    pictures = endless([i for i in rows if not scenes[i].harmful], seed).random_map(visual)
    if not config.text_share:
        return pictures
    text = _text_records(config, seed + 1)
    return grain.MapDataset.mix([pictures, text], weights=[1 - config.text_share, config.text_share])


def attach(folder: Path, split: str, features: np.ndarray, retrieved: list[str]) -> None:
    """Stores vision features [N, P, D] (as float16) and retrieved captions of a split; written aside, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{split}.npy"
    np.save(aside, features.astype(np.float16))
    (folder / f"{split}.json").write_text(json.dumps(retrieved))
    aside.rename(folder / f"{split}.npy")


def load_attachments(folder: Path, split: str) -> tuple[np.ndarray, list[str]]:
    """(features float16 [N, P, D], read as needed from the file; retrieved captions)."""
    try:
        return np.load(folder / f"{split}.npy", mmap_mode="r"), json.loads((folder / f"{split}.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}/{split}.npy: cannot be read ({error}); remove the folder to make it again"
        ) from error
