"""The trainings' data: a config names a source and a task, and gets an endless Grain dataset of records."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import grain
import numpy as np
from tokenizers import Tokenizer

from tga_jax.data import emoji_scenes, emoji_tasks, images, llava_json
from tga_jax.data.pipeline import endless
from tga_jax.data.samples import SampleFile
from tga_jax.data.templates import IMAGE, Record
from tga_jax.data.tokens import Shape, Vocabulary
from tga_jax.errors import UserError

TASKS = ("clip", "text", "caption", "asked", "visual")
GUIDED = ("all", "benign")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What one training reads.

    source "emoji": `path` is the data folder of the emoji scenes; task "clip" pairs pictures with captions, "text"
    teaches the language model, "caption" is stage 1, "asked" the same pictures with questions (harmful ones without an
    answer) and "visual" stage 2. guided: which pictures the guide may see the captions of.
    source "llava_json": `path` is a file in LLaVA's JSON, `images` the folder its images lie in; task is "caption"
    (template `plain`) or "visual" (template `mistral_instruct`).
    """

    source: str
    task: str
    path: str
    length: int  # T, tokens of a sequence
    caption_length: int  # C, tokens of a caption and its begin token
    tokenizer: str  # a tokenizer.json
    images: str = ""
    scenes: dict[str, int] | None = None  # fields of EmojiScenesConfig
    attachments: str = ""  # folder of `attach`: vision features and retrieved captions computed beforehand
    text_share: float = 0.0  # of stage 2's records that are text only
    retrieved_share: float = 0.0  # of stage 2's pictures that have the retrieved text in the prompt
    guided: str = "all"  # or "benign"
    mix: emoji_tasks.TextMix = dataclasses.field(default_factory=emoji_tasks.TextMix)

    def __post_init__(self):
        if self.guided not in GUIDED:
            raise ValueError(f"data.guided: {self.guided!r}, expected {' or '.join(GUIDED)}")

    def shape(self, image_tokens: int) -> Shape:
        return Shape(self.length, image_tokens, self.caption_length)


def vocabulary(config: DataConfig) -> Vocabulary:
    try:
        return Vocabulary(Tokenizer.from_file(config.tokenizer))
    except UserError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise UserError(f"{config.tokenizer}: cannot be read as tokenizer.json ({error})") from error


def records(config: DataConfig, image_size: int, seed: int) -> grain.MapDataset:
    """The endless, shuffled records of a training. Raises UserError for an unknown source or task."""
    if config.task not in TASKS:
        raise UserError(f"data.task: {config.task!r}, expected one of {', '.join(TASKS)}")
    if config.source == "emoji":
        return _emoji(config, seed)
    if config.source == "llava_json":
        return endless(_LlavaJson(Path(config.path), Path(config.images), config.task, image_size), seed)
    raise UserError(f"data.source: {config.source!r}, expected 'emoji' or 'llava_json'")


class _LlavaJson:
    """Records of a file in LLaVA's JSON, of one picture at most; images are read when asked for."""

    def __init__(self, path: Path, folder: Path, task: str, size: int):
        if task not in ("caption", "visual"):
            raise UserError(f"data.task: {task!r}, expected 'caption' or 'visual' for LLaVA's JSON")
        self._file, self._folder, self._task, self._size = SampleFile(path), folder, task, size

    def __len__(self) -> int:
        return len(self._file)

    def __getitem__(self, index: int) -> Record:
        where = self._file.where(index)
        sample = llava_json.parse(self._file[index], where)
        if len(sample.images) > 1:
            raise UserError(f"{where}: sample {sample.id!r} has {len(sample.images)} images, expected one at most")
        image = images.load(self._folder / sample.images[0], self._size) if sample.images else None
        if self._task == "caption":
            return Record(sample.id, (("", sample.turns[0][1]),), image, sample.caption, template="plain")
        turns = tuple((question.removeprefix(IMAGE).strip(), answer) for question, answer in sample.turns)
        return Record(sample.id, turns, image, sample.caption, sample.retrieved, bool(sample.retrieved))


@functools.lru_cache(maxsize=len(emoji_scenes.SPLITS))  # all trainings of a process read the same pictures
def emoji_split(path: str, split: str, fields: tuple[tuple[str, Any], ...]) -> emoji_scenes.EmojiSplit:
    """A split of the emoji scenes whose EmojiScenesConfig has these fields."""
    return emoji_scenes.load_split(emoji_scenes.EmojiScenesConfig(**dict(fields)), path, split)


def scenes_of(split: emoji_scenes.EmojiSplit) -> list[emoji_tasks.Scene]:
    columns = zip(split.ids, split.names, split.colors, split.captions, split.harmful, strict=True)
    return [emoji_tasks.Scene(*map(str, row[:4]), harmful=bool(row[4])) for row in columns]


def _text_records(scenes: list[emoji_tasks.Scene], mix: emoji_tasks.TextMix, seed: int) -> grain.MapDataset:
    by_caption = sorted({s.caption: dataclasses.replace(s, id=s.caption) for s in scenes}.items())
    unique = [scene for _, scene in by_caption]
    harmful, benign = ([s for s in unique if s.harmful is h] for h in (True, False))

    def build(scene: emoji_tasks.Scene, rng: np.random.Generator) -> Record:
        return emoji_tasks.text_record(scene, unique[rng.integers(len(unique))], mix, rng)

    drawn = [endless(harmful, seed), endless(benign, seed + 1)]
    return grain.MapDataset.mix(drawn, weights=[mix.harmful, 1 - mix.harmful]).seed(seed + 2).random_map(build)


def _emoji(config: DataConfig, seed: int) -> grain.MapDataset:
    if config.scenes is None:
        raise UserError("data.scenes: none, expected the emoji scenes' fields")
    split = emoji_split(config.path, "train", tuple(config.scenes.items()))
    scenes = scenes_of(split)
    if config.task == "text":
        return _text_records(scenes, config.mix, seed)
    images, retrieved = split.images, [""] * len(scenes)
    if config.attachments:
        images, retrieved = load_attachments(Path(config.attachments), "train")
    rows = range(len(scenes))

    def guided(record: Record, scene: emoji_tasks.Scene) -> Record:
        return dataclasses.replace(record, caption="") if config.guided == "benign" and scene.harmful else record

    if config.task in ("clip", "caption"):
        template = "clip" if config.task == "clip" else "plain"
        return endless(rows, seed).map(
            lambda i: guided(emoji_tasks.caption_record(scenes[i], images[i], retrieved[i], template), scenes[i])
        )
    if config.task == "asked":
        return endless(rows, seed).random_map(
            lambda i, rng: guided(emoji_tasks.asked_record(scenes[i], images[i], retrieved[i], rng), scenes[i])
        )

    def visual(i: int, rng: np.random.Generator) -> Record:
        return emoji_tasks.visual_record(scenes[i], images[i], retrieved[i], config.retrieved_share, rng)

    pictures = endless([i for i in rows if not scenes[i].harmful], seed).random_map(visual)
    if not config.text_share:
        return pictures
    text = _text_records(scenes, config.mix, seed + 1)
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
