"""LLaVA's JSON and its pictures as array_record shards, which tensorflow-datasets reads too. No TensorFlow at run time.

A builder of tensorflow-datasets starts anew when it is interrupted, so the shards are written here and only described
in its files: `tfds.builder_from_directory(folder).as_data_source(split="train")` gives the features of `features`.
"""

import functools
import itertools
import json
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import tensorflow_datasets as tfds
from array_record.python import array_record_module  # pyrefly: ignore
from tensorflow_datasets.core import example_serializer

from tga_jax import workdir
from tga_jax.data import bucket, fingerprint, llava_json
from tga_jax.data.media import Store, open_store
from tga_jax.data.samples import SampleFile
from tga_jax.errors import UserError
from tga_jax.report.progress import Progress
from tga_jax.workdir import AnyPath

_NAME, _SPLIT = "llava", "train"
_SHARD_ROWS = 8192  # a gigabyte or so of photographs
_DESCRIPTION = ("dataset_info.json", "features.json")  # of tensorflow-datasets, beside the shards
_HELD = 64  # records: a picture is asked for soon after its sample


@functools.cache
def features() -> tfds.features.FeaturesDict:
    """Of a record: the sample's JSON, and the names and the files' bytes of its pictures, in its own order."""
    text = tfds.features.Text
    return tfds.features.FeaturesDict(
        {"sample": text(), "names": tfds.features.Sequence(text()), "images": tfds.features.Sequence(text())}
    )


@functools.cache
def _serializer() -> example_serializer.ExampleSerializer:
    return example_serializer.ExampleSerializer(features().get_serialized_info())


def build(
    path: AnyPath, images: AnyPath | None, folder: Path, shards: int = 0, console: rich.console.Console | None = None
) -> None:
    """Writes the samples of a file, in their order, and their pictures from a folder or archive, to `folder`.

    shards: 0 for one per 8192 samples; they are written side by side. After an interruption the same call keeps
    finished shards and writes the others. console: shows the progress.

    Raises UserError naming the line of a bad sample or missing picture, or if `folder` holds something else.
    """
    file = SampleFile(path)
    store = None
    if images:
        store = ArrayRecords(images) if is_build(images) else open_store(images)
    shards = min(shards or -(-len(file) // _SHARD_ROWS), len(file))
    asked: dict[str, Any] = {"samples": str(workdir.absolute(path)), "shards": shards}
    asked["images"] = str(workdir.absolute(images)) if images else None
    inputs = {"samples": fingerprint.of_samples(path), "images": fingerprint.of_pictures(file, store)}
    workdir.claim(folder, asked, "--to", inputs=inputs)
    starts = [len(file) * i // shards for i in range(shards + 1)]
    paths = [folder / f"{_NAME}-{_SPLIT}.array_record-{i:05d}-of-{shards:05d}" for i in range(shards)]
    stopped = threading.Event()
    bar = Progress(console, transient=True)
    done = bar.add_task("samples", total=len(file))

    def write(shard: int) -> None:
        rows = range(starts[shard], starts[shard + 1])
        if paths[shard].exists():
            bar.advance(done, len(rows))
            return
        with workdir.replacing(paths[shard]) as aside:
            # A record a group, so that one is read alone; photographs are compressed already.
            writer = array_record_module.ArrayRecordWriter(str(aside), "group_size:1,uncompressed")
            try:
                for row in rows:
                    if stopped.is_set():
                        raise UserError("stopped")
                    writer.write(_record(file, store, row))
                    bar.advance(done)
            finally:
                writer.close()

    with workdir.working(folder, "--to"), ThreadPoolExecutor() as pool, bar:
        waiting = [pool.submit(write, shard) for shard in range(shards)]
        try:
            for future in as_completed(waiting):
                future.result()
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise
        _describe(folder, starts, paths)


def _record(file: SampleFile, store: Store | None, row: int) -> bytes:
    value, where = file[row], file.where(row)
    sample = llava_json.parse(value, where)
    if sample.images and store is None:
        raise UserError(f"{where}: sample {sample.id!r} has an image, expected --images with its folder")
    try:
        pictures = [store.read(name) for name in sample.images] if store else []
    except UserError as error:
        raise UserError(f"{where}: sample {sample.id!r}: {error}") from error
    record = {"sample": json.dumps(value), "names": list(sample.images), "images": pictures}
    example = _serializer().get_tf_example(features().encode_example(record))
    return example.SerializeToString(deterministic=True)  # otherwise a record's fields stand in any order


def _describe(folder: Path, starts: list[int], shards: list[Path]) -> None:
    """Writes the files of tensorflow-datasets, the one that makes the build a finished one last."""
    template = tfds.core.ShardedFileTemplate(
        data_dir=tfds.core.Path(folder), dataset_name=_NAME, split=_SPLIT, filetype_suffix="array_record"
    )
    split = tfds.core.SplitInfo(
        name=_SPLIT,
        shard_lengths=[stop - start for start, stop in itertools.pairwise(starts)],
        num_bytes=sum(path.stat().st_size for path in shards),
        filename_template=template,
    )
    with workdir.disk_errors(folder):
        tfds.folder_dataset.write_metadata(data_dir=folder, features=features(), split_infos=[split], check_data=False)


def is_build(path: AnyPath) -> bool:
    """Whether `build` has finished there."""
    with workdir.reading(path):
        return (path / _DESCRIPTION[0]).is_file()


class ArrayRecords(Store):
    """What `build` wrote: used like a `SampleFile`, and as the store of its pictures.

    The value of row 7 names its pictures `7:NAME`, so that they are found without an index. May be pickled and read by
    several threads. Of a build in a bucket each shard is copied to this machine when something of it is first asked
    for. Raises UserError naming the folder if it holds no finished build, or the shard that is missing.
    """

    def __init__(self, path: AnyPath):
        super().__init__(path)
        if not is_build(path):
            raise UserError(f"{path}: no finished build, expected a folder that `tga build-data` has written")
        here = bucket.mirrored(path, _DESCRIPTION) if workdir.is_remote(path) else path
        try:
            builder = tfds.builder_from_directory(here)
        except Exception as error:  # of a damaged description, of many types
            raise UserError(f"{path}: cannot be read ({error}); build the data again") from error
        split = builder.info.splits[_SPLIT]
        there = set(bucket.below(path)) if workdir.is_remote(path) else None
        for shard in split.filepaths:
            if not (shard.exists() if there is None else shard.name in there):
                raise UserError(f"{path / shard.name}: no such file, expected a shard; build the data again")
        # Of a bucket: where each shard goes, and the row behind its last one.
        self._shards = None if there is None else [Path(shard) for shard in split.filepaths]
        self._ends = np.cumsum(split.shard_lengths)
        self._source = builder.as_data_source(split=_SPLIT)  # pyrefly: ignore
        self._held = functools.lru_cache(_HELD)(self._read)

    def __reduce__(self):
        return ArrayRecords, (self.path,)

    def _read(self, row: int) -> dict[str, Any]:
        if self._shards is not None:
            shard = self._shards[int(np.searchsorted(self._ends, row, side="right"))]
            bucket.add(shard.parent, self.path, shard.name)
        try:
            return self._source[row]  # pyrefly: ignore
        except Exception as error:  # of a damaged shard, of many types
            raise UserError(f"{self.where(row)}: cannot be read ({error}); build the data again") from error

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        """The sample's JSON value, its pictures' names with the row before them."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        value = json.loads(self._held(index)["sample"])
        if isinstance(image := value.get("image"), list):
            value["image"] = [f"{index}:{name}" for name in image]
        elif image:
            value["image"] = f"{index}:{image}"
        return value

    def where(self, index: int) -> str:
        """`folder: sample 12`, from 1 on, in the order of the file it was built from."""
        return f"{self.path}: sample {index + 1}"

    def names(self) -> list[str]:
        """Of all pictures, sorted; this reads everything."""
        found = (f"{row}:{name.decode()}" for row in range(len(self)) for name in self._held(row)["names"])
        return sorted(set(found))

    def _find(self, name: str) -> bytes | None:
        row, _, own = name.partition(":")
        if not row.isdecimal() or int(row) >= len(self):
            return None
        record = self._held(int(row))
        return dict(zip(record["names"], record["images"], strict=True)).get(own.encode())

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def read(self, name: str) -> bytes:
        if (data := self._find(name)) is None:
            raise self._missing(name)
        return data
