"""The trainings' data: a config names sources, and gets an endless Grain dataset of records.

A source of your own is one class, in any file: inherit `Source`, write `dataset`, and name the class in the config,
`config.data.source = {"mine": {"kind": "my_lab.data:Mine", ...}}`.
"""

import abc
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grain
import numpy as np

from tga_jax import config as config_files
from tga_jax.data import fingerprint, images
from tga_jax.data.pipeline import Policy, Shape
from tga_jax.data.processor import load_tokenizer
from tga_jax.data.tiles import Grids, Size
from tga_jax.data.tokens import Vocabulary
from tga_jax.errors import UserError, check_range
from tga_jax.workdir import Input

# A config's `kind` -> where the class is.
KINDS = {
    "llava": "tga_jax.data.llava_source:LlavaSource",
}


class Pictures(NamedTuple):
    """What the model expects of a picture: uint8 [size, size, 3], or, if it cuts pictures into tiles (`grids`), uint8
    [N, size, size, 3]. mode: one of `images.MODES`; resample, color: as in `images.preprocess`."""

    size: int
    mode: str = "pad"
    fast: bool = False  # cheaper, with slightly other pixels
    resample: str = "bicubic"
    color: images.Color = images.CLIP_COLOR
    grids: Grids | None = None

    def read(self, data: bytes, name: str) -> np.ndarray:
        """A file's bytes. Raises UserError naming the file."""
        if self.grids is not None:
            return self.grids.cut(images.decode(data, name), self.resample)
        return images.read(data, name, self.size, self.mode, self.fast, self.resample, self.color)


@dataclasses.dataclass(frozen=True)
class PictureFile:
    """A picture of a record, read when it is asked for: its pixels by a call, as `Pictures.read` makes them.

    load: gives the file's bytes; name: of the file, for messages. Both methods raise UserError naming it.
    """

    load: Callable[[], bytes]
    name: str
    pictures: Pictures

    def __call__(self) -> np.ndarray:
        return self.pictures.read(self.load(), self.name)

    def size(self) -> Size:
        """(height, width), upright; from the file's header, so that nothing is decoded."""
        return images.size(self.load(), self.name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source(abc.ABC):
    """Where records come from. weight: its share among a training's sources. Raises ValueError."""

    kind: str = ""  # by which a config names the class
    weight: float = 1.0

    def __post_init__(self):
        check_range(self, "data.source", "weight", above=0)

    @classmethod
    def of_kind(cls, kind: Any) -> tuple[str, type["Source"]]:
        """(its name, the class) of a config's `kind`: one of `KINDS`, `module:Class`, `file.py:Class` or a class.
        Raises ValueError."""
        return config_files.find_class(kind, cls, KINDS)

    @abc.abstractmethod
    def dataset(self, pictures: Pictures, seed: int) -> grain.MapDataset:
        """The endless, shuffled records (`templates.Record`), the same for the same seed.

        `pipeline.endless` makes it from any object with `__len__` and `__getitem__`.
        """

    def inputs(self) -> dict[str, Input]:
        """What it reads, by its fields that say where; a training is refused to go on with something else there."""
        return {}


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What one training reads. source: by names of one's own, mixed by their weights."""

    tokenizer: str  # a folder with tokenizer.json
    # T of a row, ascending; a batch is padded to the least that holds it, and each is compiled once.
    lengths: tuple[int, ...]
    caption_length: int  # C, tokens of a caption and its begin token
    source: dict[str, Source]
    # K for each of `lengths`: the most target tokens of a row there, so that logits are computed for no more positions;
    # a row with more goes to the next length. (): T.
    labels: tuple[int, ...] = ()
    # Samples that share a row of `lengths`, without seeing each other; none may then be longer than its share of the
    # last one, so that a length is found for any of them.
    pack: int = 1
    image_mode: str = "pad"  # one of `images.MODES`
    fast_images: bool = False  # resize before padding: cheaper, with slightly other pixels
    threads: int = 2  # that read ahead
    policy: Policy = dataclasses.field(default_factory=Policy)

    def __post_init__(self):
        if self.image_mode not in images.MODES:
            raise ValueError(f"data.image_mode: {self.image_mode!r}, expected one of {', '.join(images.MODES)}")
        check_range(self, "data", "threads", "pack", "caption_length", least=1)

    @property
    def longest(self) -> int:
        """T of a sample."""
        return self.shape(0).longest

    def shape(self, image_tokens: int, grids: Grids | None = None) -> Shape:
        return Shape(self.lengths, image_tokens, self.caption_length, self.labels, self.pack, grids)

    def inputs(self) -> dict[str, Input]:
        """The tokenizer and what the sources read, by the fields that say where. Raises UserError for what cannot be
        read."""
        found = {"tokenizer": Input(self.tokenizer, fingerprint.of_tokenizer(Path(self.tokenizer)))}
        for name, source in self.source.items():
            found |= {f"source.{name}.{field}": given for field, given in source.inputs().items()}
        return found


def vocabulary(config: DataConfig) -> Vocabulary:
    return Vocabulary(load_tokenizer(Path(config.tokenizer)))


def records(config: DataConfig, pictures: Pictures, seed: int) -> grain.MapDataset:
    """The endless, shuffled records of a training. Raises UserError."""
    if not config.source:
        raise UserError("data.source: empty, expected a source to train on")
    sources = [source for _, source in sorted(config.source.items())]
    made = [source.dataset(pictures, seed + i) for i, source in enumerate(sources)]
    return made[0] if len(made) == 1 else grain.MapDataset.mix(made, weights=[source.weight for source in sources])
