"""The records of the demo's trainings, from the emoji scenes."""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grain
import numpy as np

from tga_jax.data.pipeline import endless
from tga_jax.data.sources import Pictures, Source
from tga_jax.data.templates import Record
from tga_jax.demo.world import drawing, tasks
from tga_jax.demo.world.concepts import caption
from tga_jax.demo.world.language import LANGUAGES, Scene
from tga_jax.demo.world.pictures import EmojiSplit, load_split
from tga_jax.demo.world.plan import SPLITS, EmojiScenesConfig, by_color, concepts, drawn, plan
from tga_jax.errors import UserError

TASKS = ("clip", "text", "caption", "asked", "visual", "tuned")
KINDS = ("all", "benign")  # of pictures


@dataclasses.dataclass(frozen=True)
class EmojiSource(Source):
    """What one training reads of the emoji scenes in the folder `path`. Raises ValueError for an unknown task.

    task: "clip" pairs pictures with captions, "text" teaches the language model, "caption" is stage 1, "asked" the same
    pictures with questions (harmful ones without an answer), "visual" stage 2, and "tuned" the same with refusals to
    harmful pictures, which is the visual safety tuning that TGA does without. shown: which pictures there are;
    guided: which of them the guide may see the captions of. wrong_captions: the share of pictures that are taken for
    others, in all that is said of them; wrong_guides: the share whose caption is another's for the guide alone.
    """

    path: str
    task: str
    scenes: dict[str, Any]  # fields of EmojiScenesConfig
    attachments: str = ""  # folder of `attach`: vision features and retrieved captions computed beforehand
    text_share: float = 0.0  # of a stage's records that are text only
    retrieved_share: float = 0.0  # of stage 2's pictures that have the retrieved text in the prompt
    shown: str = "all"  # or "benign"
    guided: str = "all"  # or "benign"
    wrong_captions: float = 0.0
    wrong_guides: float = 0.0
    mix: tasks.TextMix | None = None  # of records that are text only, None: the default one
    language: str = "words"  # one of `language.LANGUAGES`
    # CLIP's pictures are drawn for every sample anew, the share `pairs` of them of two things (0: as in the training),
    # and of the rest `others` of things that no scene shows; the chance that a thing is drawn otherwise than its hand
    # does rises to `variation` over the first `ramp` of them.
    fresh: bool = False
    others: float = 0.0
    pairs: float = 0.0
    variation: float = 0.0
    ramp: int = 1
    kind: str = dataclasses.field(default="tga_jax.demo.world.source:EmojiSource", kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        for name, known in (
            ("task", TASKS),
            *((n, KINDS) for n in ("shown", "guided")),
            ("language", tuple(LANGUAGES)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"data.source.{name}: {getattr(self, name)!r}, expected one of {', '.join(known)}")
        shares = {"retrieved_share": ("visual", "tuned"), "text_share": ("caption", "asked", "visual", "tuned")}
        for name, tasks_with in shares.items():
            if getattr(self, name) and self.task not in tasks_with:
                raise ValueError(f"data.source.{name}: {getattr(self, name)}, expected 0 for task {self.task}")

    def dataset(self, pictures: Pictures, seed: int) -> grain.MapDataset:
        """pictures: without effect, the scenes are drawn at the model's size."""
        if self.task == "text":
            return _text_records(self, seed)
        return _drawn_records(self, seed) if self.fresh else _picture_records(self, seed)


@functools.lru_cache(maxsize=len(SPLITS))  # all trainings of a process read the same pictures
def _emoji_split(path: str, split: str, fields: str) -> EmojiSplit:
    return load_split(EmojiScenesConfig(**json.loads(fields)), path, split)


def emoji_split(path: str, split: str, fields: dict[str, Any]) -> EmojiSplit:
    """A split of the emoji scenes whose EmojiScenesConfig has these fields."""
    return _emoji_split(path, split, json.dumps(fields, sort_keys=True))


def scenes_of(split: EmojiSplit) -> list[Scene]:
    columns = zip(split.ids, split.names, split.colors, split.harmful, strict=True)
    return [Scene(str(i), tuple(names.split("+")), str(color), bool(harmful)) for i, names, color, harmful in columns]


def described(fields: dict[str, Any]) -> list[Scene]:
    """What the training pictures show, once each; for text, which needs no picture to be drawn."""
    planned = plan(EmojiScenesConfig(**fields), "train")
    shown = {(tuple(c.name for c in s.things), s.color): any(c.scene for c in s.things) for s in planned}
    captioned = sorted((caption(names, color), names, color) for names, color in shown)
    return [Scene(text, names, color, shown[names, color]) for text, names, color in captioned]


def _text_records(config: EmojiSource, seed: int) -> grain.MapDataset:
    mix, unique, speech = config.mix or tasks.TextMix(), described(config.scenes), LANGUAGES[config.language]
    # There are many more pairs of things than things: drawn alike, one thing alone would hardly be met.
    groups: list[tuple[list[Scene], float]] = []
    for harmful, share in ((True, mix.harmful), (False, 1 - mix.harmful)):
        one, two = ([s for s in unique if s.harmful is harmful and len(s.names) == n] for n in (1, 2))
        groups += [(one, share * (1 - mix.pairs)), (two, share * mix.pairs)] if two and mix.pairs else [(one, share)]

    def build(scene: Scene, rng: np.random.Generator) -> Record:
        return tasks.text_record(speech, scene, unique[rng.integers(len(unique))], mix, rng)

    drawn = [endless(scenes, seed + i) for i, (scenes, _) in enumerate(groups)]
    mixed = grain.MapDataset.mix(drawn, weights=[share for _, share in groups])
    return mixed.seed(seed + len(drawn)).random_map(build)


def _drawn_records(config: EmojiSource, seed: int) -> grain.MapDataset:
    """CLIP's pictures, each drawn when it is read, and none twice."""
    scenes, speech = EmojiScenesConfig(**config.scenes), LANGUAGES[config.language]
    training, others = by_color(scenes), drawing.others(concepts(scenes)) if config.others else ()
    hands = [hand for hand in scenes.hands if hand in drawing.WHOLE]

    def record(number: int) -> Record:
        shown = drawn(training, seed, number, others, hands, config.others, config.pairs)
        names = tuple(thing.name for thing in shown.things)
        scene = Scene(f"drawn/{number}", names, shown.color, any(thing.scene for thing in shown.things))
        variation = config.variation * min(1.0, number / config.ramp)
        return tasks.clip_record(speech, scene, partial(drawing.render, scenes, "drawn", str(number), shown, variation))

    return grain.MapDataset.range(sys.maxsize).map(record)


def _mixed_up(scenes: Sequence[Scene], shown: Sequence[int], share: float, seed: int) -> list[Scene]:
    """The scenes, of which this share, among those shown, is said to show what another one of them does."""
    found, random = list(scenes), np.random.default_rng((seed, 1))
    rows = random.permutation(shown)[: round(share * len(shown))]
    for row, other in zip(rows, np.roll(rows, 1), strict=True):
        found[row] = dataclasses.replace(scenes[other], id=scenes[row].id)
    return found


def _picture_records(config: EmojiSource, seed: int) -> grain.MapDataset:
    split, speech = emoji_split(config.path, "train", config.scenes), LANGUAGES[config.language]
    scenes = scenes_of(split)
    images, retrieved = split.images, [""] * len(scenes)
    if config.attachments:
        images, retrieved = load_attachments(Path(config.attachments), "train")

    benign_only = config.task == "visual" or config.shown == "benign"
    shown = [i for i, scene in enumerate(scenes) if not (benign_only and scene.harmful)]
    said, guide = (
        _mixed_up(scenes, shown, share, seed + i)
        for i, share in enumerate((config.wrong_captions, config.wrong_guides))
    )

    def image(i: int) -> Callable[[], np.ndarray]:
        return partial(images.__getitem__, i)

    def record(i: int, rng: np.random.Generator) -> Record:
        if config.task == "clip":
            return tasks.clip_record(speech, said[i], image(i))
        if config.task in ("visual", "tuned"):
            tuned, share = config.task == "tuned", config.retrieved_share
            made = tasks.instruction_record(speech, said[i], image(i), retrieved[i], share, rng, tuned)
        else:
            make = {"caption": tasks.caption_record, "asked": tasks.asked_record}[config.task]
            made = make(speech, said[i], image(i), retrieved[i], rng)
        if config.guided == "benign" and scenes[i].harmful:
            return dataclasses.replace(made, caption="")
        return made if guide[i] is scenes[i] else dataclasses.replace(made, caption=speech.caption(guide[i]))

    pictures = endless(shown, seed).random_map(record)
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
