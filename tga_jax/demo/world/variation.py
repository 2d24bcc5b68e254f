"""Other ways to draw the same thing: what a vision tower sees in training, so that it can name pictures of a hand that
it never saw.

Artists differ in line width, in whether areas are filled and with what colours, in proportions, in the way that a thing
faces. Each of these is changed at random; what a thing is called does not depend on any of them.
"""

import colorsys
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

_LEAST_AREA = 12  # pixels, of what is filled


def varied(picture: Image.Image, tint: tuple[int, ...] | None, random: np.random.Generator) -> Image.Image:
    """RGBA, of about the same size. picture: RGBA, or the coverage as L of what is drawn in `tint`."""
    drawn = _recoloured(picture, random) if tint is None else _inked(picture, tint, random)
    if random.random() < 0.5:
        drawn = drawn.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if random.random() < 0.4:
        drawn = _outlined(drawn, random)
    wide, high = (float(random.uniform(0.75, 1.0)) for _ in range(2))
    drawn = drawn.resize((round(drawn.width * wide), round(drawn.height * high)), Image.Resampling.BILINEAR)
    return drawn.rotate(float(random.normal(0, 12)), Image.Resampling.BILINEAR)


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
        coverage = coverage.filter(ImageFilter.MinFilter(3))
    ink = Image.new("RGBA", coverage.size, (*tint, 0))
    ink.putalpha(coverage)
    if random.random() < 0.5:
        return ink
    filled = np.zeros((*coverage.size[::-1], 4), np.uint8)
    for area in _enclosed(coverage):
        if random.random() < 0.8:
            filled[area] = (*_paint(random), 255)
    return Image.alpha_composite(Image.fromarray(filled, "RGBA"), ink)


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
