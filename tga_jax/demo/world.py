"""The demo's config, and what all its trainings share."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import rich.console

import tga_jax
from tga_jax import losses, train
from tga_jax.data import emoji_scenes, emoji_tasks, sources
from tga_jax.data.tokens import Vocabulary
from tga_jax.models import llava

SPLITS = ("train", "test", "test_icons", "test_style")


@dataclasses.dataclass(frozen=True)
class ClipTraining:
    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float


@dataclasses.dataclass(frozen=True)
class TextTraining(ClipTraining):
    embedding_noise: float
    mix: emoji_tasks.TextMix


@dataclasses.dataclass(frozen=True)
class Stage:
    """One training of a row. trains: "projector" or "projector_and_llm"; guide: whether the row's guide acts."""

    task: str
    steps: int
    batch_size: int
    learning_rate: float
    trains: str
    lm: float
    guide: bool
    text_share: float
    retrieved_share: float


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to align. `stages` run in the order of their names."""

    guide: losses.GuideConfig
    stages: dict[str, Stage]


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    name: str
    seed: int
    model: str
    scenes: dict[str, int]
    clip: ClipTraining
    text: TextTraining
    rows: dict[str, Row]
    new_tokens: int


@dataclasses.dataclass(frozen=True)
class World:
    """What all trainings of a run share."""

    config: DemoConfig
    parts: Path
    tokenizer: Path
    vocabulary: Vocabulary
    model: llava.LlavaConfig
    console: rich.console.Console

    @property
    def data(self) -> Path:
        return self.parts / "scenes"

    @property
    def scenes(self) -> dict[str, Any]:
        return {**self.config.scenes, "seed": self.config.seed}

    def split(self, name: str) -> emoji_scenes.EmojiSplit:
        return sources.emoji_split(str(self.data), name, tuple(self.scenes.items()))

    def caption_length(self) -> int:
        longest = max(len(self.vocabulary.encode(str(c))) for s in SPLITS for c in self.split(s).captions)
        return 1 + longest

    def folder(self, name: str, config: Any) -> Path:
        """The folder of a part: its name and a hash of everything it depends on, wherever `parts` lies."""
        text = json.dumps([tga_jax.__version__, config], sort_keys=True)
        text = text.replace(json.dumps(f"{self.parts}/")[:-1], '"/')  # only where a string starts with it
        return self.parts / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def train(self, config: train.TrainConfig) -> Path:
        workdir = self.folder(config.name, dataclasses.asdict(config))
        train.run(config, workdir, self.console)
        return workdir
