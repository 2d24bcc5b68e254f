"""Samples and their pictures, in whichever form they lie on disk: the one door of all that read them."""

from tga_jax.data.llava_tfds import ArrayRecords, is_build
from tga_jax.data.media import Store, open_store
from tga_jax.data.samples import SampleFile
from tga_jax.errors import UserError
from tga_jax.workdir import AnyPath, reading

Samples = SampleFile | ArrayRecords


def open_samples(path: AnyPath) -> Samples:
    """LLaVA's JSON, a list (`.json`) or a sample a line (`.jsonl`), or a folder that `tga build-data` wrote.

    Raises UserError naming the file or folder, and the line.
    """
    with reading(path):
        is_folder = path.is_dir()
    return ArrayRecords(path) if is_folder else SampleFile(path)


def open_pictures(path: AnyPath | None, samples: Samples) -> Store | None:
    """Where the samples' pictures are read from: a folder, a zip, a tar, or a built folder, whose pictures are called
    `7:NAME` in row 7. None: a built folder's own, and None for a file. Raises UserError as `open_store` does, and for a
    path beside a built folder."""
    if isinstance(samples, ArrayRecords):
        if path is not None:
            raise UserError(f"{path}: images beside {samples.path}, which holds its own, expected none")
        return samples
    if path is None:
        return None
    return ArrayRecords(path) if is_build(path) else open_store(path)
