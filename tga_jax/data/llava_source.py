"""Files in LLaVA's JSON as a source of records."""

import dataclasses
from functools import partial

import grain

from tga_jax.data import fingerprint, llava_json
from tga_jax.data.open_samples import open_pictures, open_samples
from tga_jax.data.pipeline import endless
from tga_jax.data.sources import PictureFile, Pictures, Source
from tga_jax.data.templates import IMAGE, TEMPLATES, Record
from tga_jax.errors import UserError
from tga_jax.workdir import Input, located, reading


@dataclasses.dataclass(frozen=True)
class LlavaSource(Source):
    """A file in LLaVA's JSON. Raises ValueError for an unknown template.

    path: `.json` or `.jsonl`, or a folder that `tga build-data` wrote, which holds its images too; images: the folder,
    `.zip` or `.tar` that they lie in. Either may be in a bucket, "gs://bucket/folder", a `.tar` excepted. template: one
    of `templates.TEMPLATES`, of which `plain` reads nothing but the first answer.

    toxic: TGA's released code takes a sample whose id contains "tox" for toxic text: it blanks the picture and leaves
    the guide out. "text" leaves the picture out of such samples, "picture" keeps it; "" stops at one that has one.

    special_tokens: special tokens in its texts, such as `</s>`, are tokens, as in LLaVA's own training; otherwise they
    are plain text.
    """

    path: str
    images: str = ""
    template: str = "mistral_instruct"
    retrieved_in_prompt: bool = True  # R, where a sample has one, stands in the prompt
    toxic: str = ""
    special_tokens: bool = False
    kind: str = dataclasses.field(default="llava", kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        if self.template not in TEMPLATES:
            raise ValueError(f"data.source.template: {self.template!r}, expected one of {', '.join(TEMPLATES)}")
        if self.toxic not in ("", "text", "picture"):
            raise ValueError(f"data.source.toxic: {self.toxic!r}, expected text, picture or nothing")

    def dataset(self, pictures: Pictures, seed: int) -> grain.MapDataset:
        return endless(LlavaRecords(self, pictures), seed)

    def inputs(self) -> dict[str, Input]:
        path, images = located(self.path), located(self.images)
        with reading(path):
            if not self.path or not path.exists():
                return {}
        found = {"path": fingerprint.of_samples(path)}
        with reading(images):
            has_images = bool(self.images) and images.exists()
        if has_images:
            samples = open_samples(path)
            found["images"] = fingerprint.of_pictures(samples, open_pictures(images, samples))
        return found


class LlavaRecords:
    """The records of a file; a sample is parsed, and an image read, when it is asked for.

    Raises UserError naming the file, and for a bad sample its line.
    """

    def __init__(self, source: LlavaSource, pictures: Pictures):
        if not source.path:
            raise UserError(
                "data.source.path: empty, expected a file of samples or a folder that `tga build-data` wrote"
            )
        self._file = open_samples(located(source.path))
        self._store = open_pictures(located(source.images) if source.images else None, self._file)
        self._source, self._pictures = source, pictures

    @property
    def has_images(self) -> bool:
        """Whether there is a store to read them from."""
        return self._store is not None

    def __len__(self) -> int:
        return len(self._file)

    def _picture(self, name: str, where: str) -> PictureFile:
        return PictureFile(partial(self._bytes, name, where), f"{where}: {name}", self._pictures)

    def _bytes(self, name: str, where: str) -> bytes:
        assert self._store is not None
        try:
            return self._store.read(name)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    def _toxic(self, sample: llava_json.Sample, where: str) -> llava_json.Sample:
        if not self._source.toxic:
            raise llava_json.SampleError(
                "toxic_ids",
                f'{where}: sample {sample.id!r} has a picture and "tox" in its id, by which TGA\'s released code knows '
                'toxic text; expected data.source.toxic: "text" to leave the picture out, "picture" to keep it',
            )
        if self._source.toxic == "picture":
            return sample
        turns = tuple((question.replace(IMAGE, "").strip(), answer) for question, answer in sample.turns)
        return dataclasses.replace(sample, turns=turns, images=())

    def __getitem__(self, index: int) -> Record:
        where = self._file.where(index)
        return self.record(llava_json.parse(self._file[index], where), where)

    def record(self, sample: llava_json.Sample, where: str) -> Record:
        """What the training reads of a sample; where: its file and line, for messages."""
        if sample.images and "tox" in sample.id:
            sample = self._toxic(sample, where)
        if sample.images and self._store is None:
            raise llava_json.SampleError(
                "missing_images",
                f"{where}: sample {sample.id!r} has an image, expected data.source.images with its folder",
            )
        turns = sample.turns
        if self._source.template == "plain":
            turns = ((IMAGE * len(sample.images) or turns[0][0], turns[0][1]),)
        return Record(
            sample.id or where,
            turns,
            tuple(self._picture(name, where) for name in sample.images),
            sample.caption,
            sample.retrieved,
            bool(sample.retrieved) and self._source.retrieved_in_prompt,
            self._source.template,
            special_tokens=self._source.special_tokens,
            rejected=sample.rejected or None,
        )
