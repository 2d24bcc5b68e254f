"""Other ways to draw the same thing: what a vision tower sees in training, so that it can name pictures of a hand that
it never saw.

Artists differ in line width, in whether areas are filled and with what colours, in proportions, in where parts are, in
the way that a thing faces. Each of these is changed at random; what a thing is called does not depend on any of them.
"""

import colorsys
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

_LEAST_AREA = 12  # pixels, of what is filled
_WAVES, _BEND = 4, 0.06  # of how parts are moved: points a side, and by how much of half a side
_CELLS = 4  # a side, within which the warp is bilinear
_LEFT = 0.35  # of the ink of a drawing in thinner lines, at least
_EDGE = 24  # difference of grey between neighbours, of 255, from which on there is a line


def varied(picture: Image.Image, tint: tuple[int, ...] | None, random: np.random.Generator) -> Image.Image:
    """RGBA, of about the same size. picture: RGBA, or the coverage as L of what is drawn in `tint`."""
    if tint is not None:
        drawn = _inked(picture, tint, random)
    elif random.random() < 0.3:
        drawn = _inked(_lines(picture), tuple(int(v) for v in random.integers(0, 61, 3)), random)
    else:
        drawn = _recoloured(picture, random)
    if random.random() < 0.5:
        drawn = drawn.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if random.random() < 0.4:
        drawn = _outlined(drawn, random)
    return _bent(drawn, random)


def _bent(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """Turned, stretched, and warped by a smooth random field, which moves every part a little."""
    width, height = picture.size
    angle = np.deg2rad(random.normal(0, 10))
    wide, high = random.uniform(0.72, 1.05, 2)
    y, x = np.mgrid[-1 : 1 : (_CELLS + 1) * 1j, -1 : 1 : (_CELLS + 1) * 1j]  # the corners of cells
    x, y = ((np.cos(angle) * x + np.sin(angle) * y) / wide, (np.cos(angle) * y - np.sin(angle) * x) / high)
    coarse = random.normal(0, _BEND, (2, _WAVES, _WAVES)).astype(np.float32)
    fields = (Image.fromarray(f).resize((_CELLS + 1, _CELLS + 1), Image.Resampling.BICUBIC) for f in coarse)
    dx, dy = (np.asarray(field) for field in fields)
    corners = np.stack([(x + dx + 1) * width / 2, (y + dy + 1) * height / 2], axis=-1)
    # Of each cell of the result the corners in the picture, from the upper left one downwards and round.
    quads = np.concatenate([corners[:-1, :-1], corners[1:, :-1], corners[1:, 1:], corners[:-1, 1:]], axis=-1)
    left, top = (np.linspace(0, side, _CELLS + 1).round().astype(int) for side in (width, height))
    mesh = [
        ((left[j], top[i], left[j + 1], top[i + 1]), tuple(quads[i, j].tolist()))
        for i in range(_CELLS)
        for j in range(_CELLS)
    ]
    # Premultiplied: colours of what cannot be seen must not come in at the edges.
    bent = picture.convert("RGBa").transform(picture.size, Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
    return bent.convert("RGBA")


def _recoloured(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """As it is, with its hues turned, in grey, or in few flat colours."""
    kind = random.integers(5)
    if kind < 2:
        return picture
    alpha, rgb = picture.getchannel("A"), picture.convert("RGB")
    if kind == 2:
        hue, saturation, value = rgb.convert("HSV").split()
        turn = int(random.integers(256))
        rgb = Image.merge("HSV", (hue.point([(h + turn) % 256 for h in range(256)]), saturation, value)).convert("RGB")
    elif kind == 3:
        rgb = rgb.convert("L").convert("RGB")
    else:
        rgb = rgb.quantize(int(random.integers(3, 7))).convert("RGB")
    rgb.putalpha(alpha)
    return rgb


def _inked(coverage: Image.Image, tint: tuple[int, ...], random: np.random.Generator) -> Image.Image:
    """In one colour, with thicker or thinner lines, and with or without a colour in what the lines enclose."""
    kind = random.integers(4)
    if kind == 0:
        coverage = coverage.filter(ImageFilter.MaxFilter(3))
    elif kind == 1:
        thinner = coverage.filter(ImageFilter.MinFilter(3))
        if np.asarray(thinner).sum() > _LEFT * np.asarray(coverage).sum():  # thin lines would vanish
            coverage = thinner
    ink = Image.new("RGBA", coverage.size, (*tint, 0))
    ink.putalpha(coverage)
    if random.random() < 0.5:
        return ink
    filled = np.zeros((*coverage.size[::-1], 4), np.uint8)
    for area in _enclosed(coverage):
        if random.random() < 0.8:
            filled[area] = (*_paint(random), 255)
    return Image.alpha_composite(Image.fromarray(filled, "RGBA"), ink)


def _lines(picture: Image.Image) -> Image.Image:
    """Coverage as L of a drawing in lines of a picture in colour: where it ends, and where its colours change."""
    alpha = np.asarray(picture.getchannel("A"), np.float32)
    on_white = Image.new("RGBA", picture.size, "white")
    gray = np.asarray(Image.alpha_composite(on_white, picture).convert("RGB"), np.float32)
    edges = np.max(
        [ndimage.morphological_gradient(channel, 3) for channel in (*np.moveaxis(gray, -1, 0), alpha)], axis=0
    )
    return Image.fromarray(np.clip((edges - _EDGE) * 4, 0, 255).astype(np.uint8), "L")


def _paint(random: np.random.Generator) -> tuple[int, ...]:
    color = colorsys.hsv_to_rgb(random.random(), random.uniform(0, 1), random.uniform(0.5, 1))
    return tuple(round(255 * channel) for channel in color)


def _enclosed(coverage: Image.Image) -> list[np.ndarray]:
    """bool [H, W] of each area within lines."""
    ink = np.asarray(coverage) > 127
    labelled: Any = ndimage.label(np.pad(~ink, 1, constant_values=True))
    areas, count = labelled[0][1:-1, 1:-1], labelled[1]
    outside = {0, 1}  # lines, and what reaches the border, which comes first
    return [area for i in range(count + 1) if i not in outside and (area := areas == i).sum() >= _LEAST_AREA]


def _outlined(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """With a dark line around it, of one to three pixels."""
    alpha = picture.getchannel("A")
    around = alpha.filter(ImageFilter.MaxFilter(int(random.choice([3, 5, 7]))))
    line = Image.new("RGBA", picture.size, (*(int(v) for v in random.integers(0, 50, 3)), 0))
    line.putalpha(around)
    return Image.alpha_composite(line, picture)
