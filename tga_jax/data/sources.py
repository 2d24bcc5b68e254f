"""The trainings' data: a config names sources, and gets an endless Grain dataset of records."""

import dataclasses
from functools import partial
from pathlib import Path

import grain
import numpy as np

from tga_jax.data import emoji_source, images, llava_json, media
from tga_jax.data.llava_tfds import ArrayRecords
from tga_jax.data.pipeline import Policy, Shape, endless
from tga_jax.data.processor import load_tokenizer
from tga_jax.data.samples import SampleFile
from tga_jax.data.templates import IMAGE, TEMPLATES, Record
from tga_jax.data.tokens import Vocabulary
from tga_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LlavaSource:
    """A file in LLaVA's JSON. Raises ValueError for an unknown template.

    path: `.json` or `.jsonl`, or a folder that `tga build-data` wrote, which holds its images too; images: the folder,
    `.zip` or `.tar` that they lie in; template: one of `templates.TEMPLATES`, of which `plain` reads nothing but the
    first answer; weight: its share among the sources.
    """

    path: str
    images: str = ""
    template: str = "mistral_instruct"
    retrieved_in_prompt: bool = True  # R, where a sample has one, stands in the prompt
    weight: float = 1.0

    def __post_init__(self):
        if self.template not in TEMPLATES:
            raise ValueError(f"data.llava.template: {self.template!r}, expected one of {', '.join(TEMPLATES)}")
        if not self.weight > 0:
            raise ValueError(f"data.llava.weight: {self.weight}, expected a positive number")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What one training reads: the files of `llava`, by names of one's own, mixed by their weights; or `emoji`."""

    tokenizer: str  # a folder with tokenizer.json
    lengths: tuple[int, ...]  # T, ascending; a batch is padded to the least that holds it, and each is compiled once
    caption_length: int  # C, tokens of a caption and its begin token
    # K for each of `lengths`: the most target tokens of a row there, so that logits are computed for no more positions;
    # a row with more goes to the next length. (): T.
    labels: tuple[int, ...] = ()
    llava: dict[str, LlavaSource] = dataclasses.field(default_factory=dict)
    emoji: emoji_source.EmojiSource | None = None
    image_mode: str = "pad"  # or "crop"
    fast_images: bool = False  # resize before padding: cheaper, with slightly other pixels
    threads: int = 2  # that read ahead
    policy: Policy = dataclasses.field(default_factory=Policy)

    def __post_init__(self):
        if bool(self.llava) == (self.emoji is not None):
            raise ValueError("data: expected either files in data.llava or data.emoji")
        if self.image_mode not in images.MODES:
            raise ValueError(f"data.image_mode: {self.image_mode!r}, expected one of {', '.join(images.MODES)}")
        if self.threads < 1:
            raise ValueError(f"data.threads: {self.threads}, expected at least 1")

    def shape(self, image_tokens: int) -> Shape:
        return Shape(self.lengths, image_tokens, self.caption_length, self.labels)


def vocabulary(config: DataConfig) -> Vocabulary:
    return Vocabulary(load_tokenizer(Path(config.tokenizer)))


class LlavaRecords:
    """A random-access source of records for Grain; a sample is parsed, and an image read, when it is asked for.

    size: the model's image size. Raises UserError naming the file, and for a bad sample its line.
    """

    def __init__(self, source: LlavaSource, size: int, mode: str, fast: bool):
        path = Path(source.path)
        if path.is_dir():
            self._file = self._store = ArrayRecords(path)
        else:
            self._file = SampleFile(path)
            self._store = media.open_store(Path(source.images)) if source.images else None
        self._source, self._size, self._mode, self._fast = source, size, mode, fast

    def __len__(self) -> int:
        return len(self._file)

    def _image(self, name: str, where: str) -> np.ndarray:
        assert self._store is not None
        try:
            return images.read(self._store.read(name), name, self._size, self._mode, self._fast)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    def __getitem__(self, index: int) -> Record:
        where = self._file.where(index)
        sample = llava_json.parse(self._file[index], where)
        if sample.images and self._store is None:
            raise UserError(f"{where}: sample {sample.id!r} has an image, expected data.llava.images with its folder")
        turns = sample.turns
        if self._source.template == "plain":
            turns = ((IMAGE * len(sample.images) or turns[0][0], turns[0][1]),)
        return Record(
            sample.id or where,
            turns,
            tuple(partial(self._image, name, where) for name in sample.images),
            sample.caption,
            sample.retrieved,
            bool(sample.retrieved) and self._source.retrieved_in_prompt,
            self._source.template,
        )


def records(config: DataConfig, image_size: int, seed: int) -> grain.MapDataset:
    """The endless, shuffled records of a training."""
    if config.emoji is not None:
        return emoji_source.records(config.emoji, seed)
    made = []
    for i, (_, source) in enumerate(sorted(config.llava.items())):
        made.append(endless(LlavaRecords(source, image_size, config.image_mode, config.fast_images), seed + i))
    weights = [source.weight for _, source in sorted(config.llava.items())]
    return made[0] if len(made) == 1 else grain.MapDataset.mix(made, weights=weights)
