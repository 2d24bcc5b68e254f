"""The demo's pictures as a tensorflow-datasets builder, and a reader that returns NumPy arrays. No TensorFlow at run
time."""

import contextlib
import dataclasses
import errno
import hashlib
import importlib.metadata
import io
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import process
from pathlib import Path

import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image

from tga_jax.demo.world import drawing
from tga_jax.demo.world.concepts import COLORS, CONCEPTS, caption
from tga_jax.demo.world.plan import HELD_OUT_COLORS, EmojiScenesConfig, plan, splits_of
from tga_jax.errors import UserError

_READ_RUN = 128  # records read at a time
_CHECKSUMS = "checksums.json"


@dataclasses.dataclass(frozen=True)
class EmojiSplit:
    """One split as columns; row i of every column is the same example.

    Attributes:
      images: uint8 [N, H, W, 3], RGB.
      ids: str [N] (dtype object, as all text here), "split/names/color/hand/number".
      names: str [N], the concepts' names, with "+" between those of two, the left one first.
      scenes: str [N], that of a harmful thing in it, one of `concepts.SCENES`; "" for a benign example.
      colors: str [N], a key of `concepts.COLORS`.
      hands: str [N], one of `plan.HANDS`.
      captions: str [N], "a NAME on a COLOR background", "a NAME next to a NAME on a COLOR background".
      look_alike: bool [N], benign and with something in it that is like a harmful thing.
    """

    images: np.ndarray
    ids: np.ndarray
    names: np.ndarray
    scenes: np.ndarray
    colors: np.ndarray
    hands: np.ndarray
    captions: np.ndarray
    look_alike: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def harmful(self) -> np.ndarray:
        """bool [N]."""
        return self.scenes != ""

    def take(self, index: np.ndarray) -> "EmojiSplit":
        """The rows that a boolean mask or an integer index selects."""
        return EmojiSplit(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})


class EmojiScenes(tfds.core.GeneratorBasedBuilder):
    """Emoji on coloured backgrounds, some of them stand-ins for harmful scenes.

    Every concept has eight (concept, colour) pairs. Six, chosen by seed, are training pairs; two are held out.

    | split      | pairs    | hands       | asks about, beside new renderings        |
    |------------|----------|-------------|------------------------------------------|
    | train      | training | of training |                                          |
    | test       | training | of training | nothing more                             |
    | test_pairs | held-out | of training | pairs that training never showed         |
    | test_hand  | training | held-out    | a hand that training never showed        |
    | test_two   | training | of training | two things never shown beside each other |

    Every random choice is drawn from (seed, split, id), so an example does not depend on which others are made.
    """

    # To be raised with any change of code that moves a pixel or a word.
    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {"2.0.0": "Several hands, and scenes of two things."}  # noqa: RUF012 - the attribute tensorflow-datasets looks for
    builder_config: EmojiScenesConfig  # pyrefly: ignore
    # Otherwise looked up through importlib_resources, which tensorflow-datasets imports without requiring it.
    code_path = tfds.core.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self.builder_config.image_size
        text = tfds.features.Text
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
                    "id": text(),
                    "name": text(),
                    "scene": text(),
                    "color": text(),
                    "hand": text(),
                    "caption": text(),
                    "look_alike": tfds.features.Scalar(np.bool_),
                }
            ),
            description="Emoji on coloured backgrounds; some stand for harmful scenes.",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in splits_of(self.builder_config)}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        config = self.builder_config
        for shown in plan(config, split):
            names = "+".join(thing.name for thing in shown.things)
            example_id = drawing.example_id(split, shown)
            scene = next((thing.scene for thing in shown.things if thing.scene), "")
            yield (
                example_id,
                {
                    "image": _encode_png(drawing.render(config, split, example_id, shown)),
                    "id": example_id,
                    "name": names,
                    "scene": scene,
                    "color": shown.color,
                    "hand": shown.hand,
                    "caption": caption(names.split("+"), shown.color),
                    "look_alike": not scene and any(thing.look_alike for thing in shown.things),
                },
            )


def _encode_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


def build(config: EmojiScenesConfig, data_dir: str | Path) -> EmojiScenes:
    """Renders all splits under `data_dir` unless they are there; about 25 s for the default config.

    Written aside and renamed, so an interrupted build leaves no half of one. Raises UserError where the disk is full,
    or where the folder holds something other than what `config` describes.
    """
    folder = _folder(config, data_dir)
    if not is_built(config, data_dir):
        try:
            with _quiet():
                _open(config, data_dir).download_and_prepare()
            _write_checksums(config, folder)
        except Exception as error:
            if _is_full_disk(error):
                raise UserError(f"no space left for the emoji scenes in {data_dir}; free some and rerun") from error
            if isinstance(error, PermissionError):
                raise UserError(f"cannot write the emoji scenes to {data_dir}: {error.strerror}") from error
            if not is_built(config, data_dir):  # otherwise another process was first
                raise
    _read_checksums(config, folder)
    return _open(config, data_dir)


def build_aside(config: EmojiScenesConfig, data_dir: str | Path) -> None:
    """`build` in a process of its own: drawing holds Python's lock, and other threads of this one would wait for it.

    Raises UserError as `build` does, and if something kills that process.
    """
    context = multiprocessing.get_context("spawn")
    # Ctrl-C reaches both processes; this one decides what it means.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    with futures.ProcessPoolExecutor(1, context, initializer=signal.signal, initargs=ignore) as pool:
        try:
            pool.submit(_build, config, data_dir).result()
        except process.BrokenProcessPool as error:
            raise UserError("the process that draws the emoji scenes was killed; free some memory and rerun") from error


def _build(config: EmojiScenesConfig, data_dir: str | Path) -> None:
    build(config, data_dir)  # whose builder cannot be sent


def is_built(config: EmojiScenesConfig, data_dir: str | Path) -> bool:
    """Whether `build` has written all splits under `data_dir`."""
    return (_folder(config, data_dir) / _CHECKSUMS).exists()


def load_split(config: EmojiScenesConfig, data_dir: str | Path, split: str, *, num_threads: int = 8) -> EmojiSplit:
    """Reads a split that `build` wrote, always in the same order.

    Raises UserError naming the folder if it holds no such build, or the file if one is missing or not as written.
    """
    if split not in splits_of(config):
        raise UserError(f"no split {split!r} in the emoji scenes; expected one of {', '.join(splits_of(config))}")
    folder = _folder(config, data_dir)
    if not folder.is_dir():
        raise UserError(f"no emoji scenes of this config in {folder}; build them first")
    _verify(folder, _read_checksums(config, folder), split)

    source = _open(config, data_dir).as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})  # pyrefly: ignore
    size, n = config.image_size, len(source)
    images = np.empty((n, size, size, 3), np.uint8)
    text = {key: np.empty(n, object) for key in ("id", "name", "scene", "color", "hand", "caption")}
    look_alike = np.empty(n, np.bool_)

    def read(start: int) -> None:
        # A run of records at a time: one by one, the reader's overhead is four times the decoding.
        rows = range(start, min(start + _READ_RUN, n))
        for row, example in zip(rows, source.__getitems__(list(rows)), strict=True):
            images[row] = np.asarray(Image.open(io.BytesIO(example["image"]), formats=("PNG",)))
            look_alike[row] = example["look_alike"]
            for key, column in text.items():
                column[row] = example[key].decode()

    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=2 * num_threads)
    for _ in grain.MapDataset.range(0, n, _READ_RUN).map(read).to_iter_dataset(options, allow_nones=True):
        pass
    return EmojiSplit(images=images, **{f"{key}s": column for key, column in text.items()}, look_alike=look_alike)


def _open(config: EmojiScenesConfig, data_dir: str | Path) -> EmojiScenes:
    with _quiet():
        return EmojiScenes(config=config, data_dir=data_dir, file_format="array_record")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back the builder's bars, prints and warnings, which speak of downloads; here nothing is downloaded."""
    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _folder(config: EmojiScenesConfig, data_dir: str | Path) -> Path:
    return Path(data_dir) / EmojiScenes.name / config.name / str(EmojiScenes.VERSION)


def _table_digest() -> str:
    """Of the table and the constants of drawing; what was built from others must not pass for this."""
    table = (
        [dataclasses.astuple(c) for c in CONCEPTS],
        list(COLORS.items()),
        [*drawing.CONSTANTS[:2], HELD_OUT_COLORS, *drawing.CONSTANTS[2:]],
    )
    return hashlib.sha256(json.dumps(table).encode()).hexdigest()


def _record(config: EmojiScenesConfig) -> dict:
    return {"config": config.render_fields(), "table_sha256": _table_digest()}


def _write_checksums(config: EmojiScenesConfig, folder: Path) -> None:
    files = {p.name: _sha256(p) for p in sorted(folder.iterdir()) if not p.name.startswith(_CHECKSUMS)}
    used = [drawing.PACKAGES[hand] for hand in (*config.hands, config.held_out_hand)]
    packages = {p: importlib.metadata.version(p) for p in used}  # for the reader; not compared
    aside = folder / f"{_CHECKSUMS}.{os.getpid()}"
    aside.write_text(json.dumps({**_record(config), "files": files, "packages": packages}, indent=1) + "\n")
    aside.rename(folder / _CHECKSUMS)


def _read_checksums(config: EmojiScenesConfig, folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a build of `config`."""
    path = folder / _CHECKSUMS
    try:
        found = json.loads(path.read_text())
        files = dict(found["files"])
        record = {key: found[key] for key in ("config", "table_sha256")}
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the build was not finished; delete {folder} and rerun") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not readable; delete {folder} and rerun") from None
    if record != _record(config):
        raise UserError(f"{folder} was built from another config or concept table; delete it and rerun")
    return files


def _verify(folder: Path, files: dict[str, str], split: str) -> None:
    """Reads the split's shards once more than needed: 120 MB hash in a fraction of a second."""
    for name, digest in files.items():
        path = folder / name
        if name.endswith(".json") or f"-{split}." in name:
            if not path.is_file():
                raise UserError(f"{path} is missing; delete {folder} and rerun")
            if _sha256(path) != digest:
                raise UserError(f"{path} is damaged (its SHA-256 is not that of the build); delete {folder} and rerun")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_full_disk(error: BaseException) -> bool:
    # array_record's writer reports it as a RuntimeError with the system's text.
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    if isinstance(error, OSError) and error.errno in full:
        return True
    return any(os.strerror(code) in str(error) for code in full)
