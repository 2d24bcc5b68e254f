"""The demo's config, and what all its trainings share."""

import contextlib
import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tga_jax
from tga_jax import guides
from tga_jax.data.tokens import Vocabulary
from tga_jax.demo.world import pictures, source, tasks
from tga_jax.demo.world.language import LANGUAGES, Language
from tga_jax.demo.world.plan import EmojiScenesConfig, splits_of
from tga_jax.models import layers, llava, presets
from tga_jax.report.progress import Progress
from tga_jax.train import loop, optim, origin
from tga_jax.train.config import TrainConfig
from tga_jax.workdir import alone

LLMS = ("", "smollm2")
STAGE_TASKS = ("caption", "asked", "visual", "tuned")
TRAINS = {
    "projector": (("projector/.*", 1.0), ("llm/.*", 0.0)),
    "projector_and_llm": (("projector/.*", 1.0), ("llm/.*", 1.0)),
    "projector_and_lora": (("projector/.*", 1.0), ("llm/.*_lora/.*", 1.0), ("llm/.*", 0.0)),
}
LORA = layers.LoraConfig(rank=16, alpha=32.0)


@dataclasses.dataclass(frozen=True)
class Training:
    steps: int
    batch_size: int
    optimizer: str  # "adam" or "muon"
    learning_rate: float
    weight_decay: float
    newton_schulz: int | None  # iterations of Muon
    preconditioning: str | None  # of Muon

    def __post_init__(self):
        if self.optimizer not in optim.KINDS:
            raise ValueError(f"optimizer: {self.optimizer!r}, expected one of {', '.join(optim.KINDS)}")


@dataclasses.dataclass(frozen=True)
class ClipTraining(Training):
    """fresh: every picture is drawn for it alone, instead of those that the stages see, with the chance `variation`,
    which the first `ramp` pictures rise to, that a thing is drawn otherwise than its hand does, the share `pairs` of
    pictures of two things (0: as in the training), and of the rest `others` of things that no scene shows."""

    fresh: bool = False
    others: float = 0.0
    pairs: float = 0.0
    variation: float = 0.0
    ramp: int = 1


@dataclasses.dataclass(frozen=True)
class TextTraining(Training):
    embedding_noise: float
    mix: tasks.TextMix


@dataclasses.dataclass(frozen=True)
class Stage(Training):
    """One training of a row.

    trains: one of `TRAINS`; guide: whether the row's guide acts; guided: on "all" captioned pictures or on "benign"
    ones only; shown, wrong_captions, wrong_guides: as `EmojiSource` takes them.
    """

    task: str
    trains: str
    lm: float
    guide: bool
    guided: str
    text_share: float
    retrieved_share: float
    shown: str = "all"
    wrong_captions: float = 0.0
    wrong_guides: float = 0.0

    def __post_init__(self):
        super().__post_init__()
        kinds = (("guided", source.KINDS), ("shown", source.KINDS))
        for name, known in (("task", STAGE_TASKS), ("trains", tuple(TRAINS)), *kinds):
            if getattr(self, name) not in known:
                raise ValueError(f"stage.{name}: {getattr(self, name)!r}, expected one of {', '.join(known)}")


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to align. `stages` run in the order of their names; `note` says in the report what the row is; `guide`
    acts in the stages that say so, or `after` in those behind the first one; `model` is the preset, "" for the
    config's; `patches`: whether it sees with the CLIP whose patches were trained too."""

    note: str
    guide: guides.Guide | None
    stages: dict[str, Stage]
    model: str = ""
    after: guides.Guide | None = None
    patches: bool = False

    def guide_of(self, stage: str) -> guides.Guide | None:
        """The guide that acts in a stage."""
        if not self.stages[stage].guide:
            return None
        return self.after if self.after is not None and stage != min(self.stages) else self.guide

    def __post_init__(self):
        if not self.stages:
            raise ValueError("row.stages: none, expected at least one")
        guided = any(stage.guide for stage in self.stages.values())
        if guided != (self.guide is not None):
            raise ValueError(
                f"row.guide: {self.guide}, and {'a' if guided else 'no'} stage is guided, expected both or neither"
            )
        later = [stage for name, stage in self.stages.items() if name != min(self.stages)]
        if self.after is not None and not any(stage.guide for stage in later):
            raise ValueError("row.after: a guide, and no later stage is guided, expected one")


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """One world, and the rows that are compared in it. Raises ValueError.

    language: one of `language.LANGUAGES`; llm: what the text model starts from, "" (random parameters) or one of
    `LLMS`; asked: most pictures of a kind (harmful, look-alikes, others) that a row is asked about, 0: all; core: the
    rows of a quick grid; note: what a reader of the report has to know of this config before its rates; patches: how
    CLIP is trained further, with the loss of every patch token, for the rows that see with such a one.
    """

    name: str
    seed: int
    model: str
    scenes: dict[str, Any]
    clip: ClipTraining
    text: TextTraining
    rows: dict[str, Row]
    new_tokens: int
    note: str = ""
    language: str = "words"
    llm: str = ""
    asked: int = 0
    core: tuple[str, ...] = ()
    patches: ClipTraining | None = None

    @property
    def core_rows(self) -> tuple[str, ...]:
        """Where no core is named, all rows."""
        return self.core or tuple(self.rows)

    def __post_init__(self):
        if unknown := [row for row in self.core if row not in self.rows]:
            raise ValueError(f"core: {unknown[0]!r}, expected some of {', '.join(self.rows)}")
        if self.patches is None and (reads := [name for name, row in self.rows.items() if row.patches]):
            raise ValueError(f"patches: None, and row {reads[0]} sees with that CLIP, expected how it is trained")
        for name, known in (("language", tuple(LANGUAGES)), ("llm", LLMS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: {getattr(self, name)!r}, expected one of {', '.join(map(repr, known))}")


@dataclasses.dataclass(frozen=True)
class Words:
    """A tokenizer, and its folder."""

    folder: Path
    vocabulary: Vocabulary


@dataclasses.dataclass(frozen=True)
class World:
    """What all trainings of a run share. Several threads may use it at once."""

    config: DemoConfig
    parts: Path
    words: Words  # of CLIP
    tokens: Words  # of the language model
    bars: Progress  # what is being done
    measuring: threading.Lock = dataclasses.field(default_factory=threading.Lock)  # held while a row is measured

    @property
    def language(self) -> Language:
        return LANGUAGES[self.config.language]

    @property
    def vocabulary(self) -> Vocabulary:
        return self.tokens.vocabulary

    def model(self, row: str = "") -> llava.LlavaConfig:
        """The model of a row; "": the config's."""
        return presets.get(self.model_name(row), self.vocabulary.size)

    def model_name(self, row: str = "") -> str:
        return (self.config.rows[row].model if row else "") or self.config.model

    @property
    def data(self) -> Path:
        return self.parts / "scenes"

    @property
    def scenes(self) -> dict[str, Any]:
        return {**self.config.scenes, "seed": self.config.seed}

    def split(self, name: str) -> pictures.EmojiSplit:
        """A split of the pictures. The first call of a run draws them all unless they are there."""
        config = EmojiScenesConfig(**self.scenes)
        with alone(self.data / config.name):
            if not pictures.is_built(config, self.data):
                with self.shows("drawing the emoji scenes"):
                    pictures.build_aside(config, self.data)
            return source.emoji_split(str(self.data), name, self.scenes)

    @property
    def splits(self) -> tuple[str, ...]:
        return splits_of(EmojiScenesConfig(**self.scenes))

    def folder(self, name: str, config: Any, model: Any = None) -> Path:
        """The folder of a part: its name and a hash of everything it depends on, wherever `parts` lies.

        model: the sizes of what it depends on, of the config's model by default.
        """
        sizes = dataclasses.asdict(self.model() if model is None else model)
        text = json.dumps([tga_jax.__version__, sizes, config], sort_keys=True)
        text = text.replace(json.dumps(f"{self.parts}/")[:-1], '"/')  # only where a string starts with it
        return self.parts / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def train(self, config: TrainConfig, title: str) -> Path:
        """The folder of the training, which is trained unless it is there. title: to show."""
        model = origin.model_of(config, self.vocabulary.size)
        if len(config.init) == 1:  # CLIP, or the language model, whatever projector there will be
            model = getattr(model, next(iter(config.init)))
        described = dataclasses.asdict(dataclasses.replace(config, processes=0))  # which change nothing
        workdir = self.folder(config.name, described, model)
        with alone(workdir):  # rows with a training in common: one makes it
            loop.run(config, workdir, bars=self.bars, title=title)
        return workdir

    @contextlib.contextmanager
    def shows(self, what: str) -> Iterator[None]:
        """Shows that `what` is being done, which has no steps to count."""
        task = self.bars.add_task(what, total=None, shown="")
        try:
            yield
        finally:
            self.bars.remove_task(task)
