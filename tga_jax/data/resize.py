"""A window of a resized picture, without the whole: Pillow's pixels, bit for bit, of pictures so long that the
whole would not fit in memory.

Pillow resizes one direction after the other, each rounded to 8 bits, with weights that are whole numbers of 2^-22
(its `src/libImaging/Resample.c`). `Image.resize(box=...)` would not do: its corners are rounded, and 33 of 60 random
long pictures came out otherwise, by up to 23 of 255. Dimension letters: N lines, n pixels of a line, M pixels of a
resized line.
"""

from typing import NamedTuple

import numpy as np
import PIL

_BITS = 22
_CHUNK = 2**22  # pixels that are held as float64 at once


class Axis(NamedTuple):
    """One direction of a picture that is resized."""

    length: int  # before, margins included
    resized: int
    first: int  # of the resized pixels, those that are wanted
    count: int
    start: int = 0  # where the picture's own pixels begin
    resample: str = "bicubic"  # or "bilinear"

    def weights(self, i: int) -> tuple[int, np.ndarray]:
        """(first pixel, its and the following ones' weights, int64) of the resized pixel `first` + i."""
        scale = float(np.float32(self.length)) / self.resized
        wide = max(scale, 1.0)
        centre = (self.first + i + 0.5) * scale
        support = wide if self.resample == "bilinear" else 2 * wide
        begin = max(int(centre - support + 0.5), 0)
        end = min(int(centre + support + 0.5), self.length)
        x = np.abs((np.arange(begin, end) - centre + 0.5) * (1 / wide))
        if self.resample == "bilinear":
            w = np.maximum(1 - x, 0.0)
        else:
            near, far = (1.5 * x - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
            w = np.where(x < 1, near, np.where(x < 2, far, 0.0))
        w = w / np.add.accumulate(w)[-1]  # summed in order, as Pillow does
        return begin, np.trunc(w * (1 << _BITS) + np.where(w < 0, -0.5, 0.5)).astype(np.int64)

    def reach(self) -> tuple[int, int]:
        """The first pixel that the wanted ones are made of, and the one after the last."""
        last, weights = self.weights(self.count - 1)
        return self.weights(0)[0], last + len(weights)


def _resize(lines: np.ndarray, axis: Axis, margin: np.ndarray) -> np.ndarray:
    """uint8 [N, n, 3] -> [N, M, 3]; margin: int [N, 3] or [1, 3], the colour around a line's own pixels."""
    out = np.empty((len(lines), axis.count, 3), np.uint8)
    for i in range(axis.count):
        begin, weights = axis.weights(i)
        first, last = (int(np.clip(at - axis.start, 0, lines.shape[1])) for at in (begin, begin + len(weights)))
        own = weights[first + axis.start - begin :][: last - first] if last > first else weights[:0]
        step = max(1, _CHUNK // max(1, len(own)))
        for at in range(0, len(lines), step):
            some = lines[at : at + step, first:last].astype(np.float64)  # whole numbers, exact below 2^53
            total = np.tensordot(some, own.astype(np.float64), (1, 0)).astype(np.int64)
            around = margin if len(margin) == 1 else margin[at : at + step]
            total += around * (weights.sum() - own.sum()) + (1 << (_BITS - 1))
            out[at : at + step, i] = np.clip(total >> _BITS, 0, 255)
    return out


def _vertical_first(x: Axis, y: Axis) -> bool:
    """Whether Pillow resizes the columns first: since 13, if they lose much more than the rows."""
    lost = y.length - y.resized
    return int(PIL.__version__.split(".")[0]) >= 13 and lost > 0 and lost > 2 * (x.length - x.resized)


def window(pixels: np.ndarray, x: Axis, y: Axis, colour: tuple[int, int, int] = (0, 0, 0)) -> np.ndarray:
    """uint8 [y.count, x.count, 3] of uint8 pixels [h, w, 3], which may have margins of one colour around them."""
    turned = _vertical_first(x, y)
    lines, axes = (pixels.transpose(1, 0, 2), (y, x)) if turned else (pixels, (x, y))
    margin = np.array([colour], np.int64)
    # A line of margin alone becomes the margin of the second direction.
    beyond = _resize(np.empty((1, 0, 3), np.uint8), axes[0], margin)[0].astype(np.int64)
    made = _resize(lines, axes[0], margin).transpose(1, 0, 2)
    made = _resize(made, axes[1], beyond)
    return made if turned else made.transpose(1, 0, 2)
