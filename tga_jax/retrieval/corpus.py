"""What texts are retrieved for and from: a file's samples with their captions, and files of further texts."""

import dataclasses

from tga_jax.data import llava_json
from tga_jax.data.open_samples import Samples
from tga_jax.errors import UserError
from tga_jax.report.progress import Progress
from tga_jax.workdir import AnyPath, reading


@dataclasses.dataclass
class PicturedSamples:
    """The samples with an image, in the file's order; of several images the first counts."""

    file: Samples
    rows: list[int] = dataclasses.field(default_factory=list)  # of the file
    captions: list[str] = dataclasses.field(default_factory=list)
    pictures: list[int] = dataclasses.field(default_factory=list)  # which of `names`
    names: list[str] = dataclasses.field(default_factory=list)  # different ones
    places: list[str] = dataclasses.field(default_factory=list)  # for messages: the sample that names each first


def read_samples(file: Samples, bar: Progress) -> PicturedSamples:
    """A sample's caption is its `image_caption`, or else its answer if it has only one, as caption data have.

    Raises UserError as `Samples` and `parse` do, and for a sample with an image that has neither.
    """
    samples, numbers = PicturedSamples(file), {}
    for i in bar.track(range(len(samples.file)), description="samples read"):
        where = samples.file.where(i)
        sample = llava_json.parse(samples.file[i], where)
        if not sample.images:
            continue
        caption = sample.caption or (sample.turns[0][1] if len(sample.turns) == 1 else "")
        if not caption.strip():
            raise UserError(
                f"{where}: sample {sample.id!r} has no `image_caption` and {len(sample.turns)} answers, "
                "expected a caption, or a single answer that is one"
            )
        name = sample.images[0]
        if name not in numbers:
            numbers[name] = len(numbers)
            samples.names.append(name)
            samples.places.append(f"{where}: sample {sample.id!r}")
        samples.rows.append(i)
        samples.captions.append(caption.strip())
        samples.pictures.append(numbers[name])
    if not samples.rows:
        raise UserError(f"{file.path}: no sample with an image, expected some to retrieve a text for")
    return samples


def read_texts(path: AnyPath) -> list[str]:
    """The lines that are not blank. Raises UserError naming the file, and the line that is not UTF-8."""
    with reading(path, "one text a line"):
        data = path.read_bytes()
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}: line {line}: not UTF-8 (byte {error.start} of the file)") from error
    if not (texts := [line.strip() for line in lines if line.strip()]):
        raise UserError(f"{path}: empty, expected one text a line")
    return texts
