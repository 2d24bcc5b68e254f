"""Pictures of any resolution ("anyres"), as LLaVA-NeXT and LLaVA-OneVision take them: first the whole picture as the
tower takes it, then, resized to one of several grids, cut into tiles of the tower's size.

Of the tiles' features the decoder reads those of the whole picture, and then row by row those of the grid that show
the picture, which is padded there; a learned vector, the newline, ends each row. Sizes are (height, width). Dimension
letters: N tiles, the whole picture among them, I image size, p patches along a side, P = p^2 features of a tile, Q
image tokens, S features that an image token is a weighted sum of.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from tga_jax.data import images

NEWLINE = -1  # in a place's index
Size = tuple[int, int]


class Places(NamedTuple):
    """Of which features each image token is made."""

    index: np.ndarray  # int32 [Q, S]: of features [N P] in the tiles' order, or NEWLINE
    weight: np.ndarray  # float32 [Q, S]


@dataclasses.dataclass(frozen=True)
class Grids:
    """pinpoints: the grids' sizes in pixels; side: I; patches: p; most: as many tiles' worth of features at most, more
    are resized bilinearly (OneVision's `anyres_max_9`); None: all of them (NeXT)."""

    pinpoints: tuple[Size, ...]
    side: int
    patches: int
    most: int | None = None

    def best(self, size: Size) -> Size:
        """The grid that shows most of the picture's pixels, and of several the one that is filled most."""
        height, width = size

        def shown(grid: Size) -> tuple[int, int]:
            scale = min(grid[1] / width, grid[0] / height)
            pixels = min(int(width * scale) * int(height * scale), width * height)
            return pixels, pixels - grid[0] * grid[1]

        return max(self.pinpoints, key=shown)

    def tiles(self, size: Size) -> int:
        """N, of a picture of this size."""
        height, width = self.best(size)
        return 1 + (height // self.side) * (width // self.side)

    @property
    def largest(self) -> Size:
        """The grid of most tiles."""
        return max(self.pinpoints, key=math.prod)

    @property
    def terms(self) -> int:
        """S: features that an image token is made of, at most."""
        return 1 if self.most is None else 4

    def slots(self, tiles: int) -> int:
        """Room for so many tiles: a number of few, since a program is compiled for each, and at most half more."""
        step = max(1, 1 << max(tiles.bit_length() - 2, 0))
        room = -(-tiles // step) * step
        most = self.tiles(self.largest)
        return min(room, most) if tiles <= most else room

    def cut(self, image: Image.Image, resample: str) -> np.ndarray:
        """uint8 [N, I, I, 3]: the RGB picture, stretched, and the tiles of its grid."""
        side, (height, width) = self.side, self.best((image.height, image.width))
        across, down = width / image.width, height / image.height
        if across < down:
            shown = (width, min(math.ceil(image.height * across), height))
        else:
            shown = (min(math.ceil(image.width * down), width), height)
        grid = Image.new("RGB", (width, height))  # black around it, the smaller margin first
        resized = image.resize(shown, images.RESAMPLING[resample])
        grid.paste(resized, ((width - shown[0]) // 2, (height - shown[1]) // 2))
        tiles = np.asarray(grid).reshape(height // side, side, width // side, side, 3).swapaxes(1, 2)
        whole = images.preprocess(image, side, "stretch", resample=resample)
        return np.concatenate([whole[None], tiles.reshape(-1, side, side, 3)])

    def _shown(self, size: Size) -> tuple[tuple[slice, slice], Size]:
        """(which rows and columns of the grid's features show a picture of this size, what they are resized to)."""
        p = self.patches
        height, width = self.best(size)
        part = _without_padding((height // self.side * p, width // self.side * p), size)
        rows, columns = (one.stop - one.start for one in part)
        if self.most is not None and (ratio := math.sqrt(rows * columns / (self.most * p * p))) > 1.1:
            rows, columns = int(rows // ratio), int(columns // ratio)
        return part, (rows, columns)

    def tokens(self, size: Size) -> int:
        """Q, of a picture of this size."""
        _, (rows, columns) = self._shown(size)
        return self.patches**2 + rows * (columns + 1)

    def places(self, size: Size) -> Places:
        """Of a picture of this size."""
        p, (height, width) = self.patches, (edge // self.side for edge in self.best(size))
        tile = 1 + np.arange(height * width).reshape(height, 1, width, 1)
        part, resized = self._shown(size)
        grid = (tile * p * p + np.arange(p)[:, None, None] * p + np.arange(p)).reshape(height * p, width * p)[part]
        index, weight = grid[..., None], np.ones((*grid.shape, 1), np.float32)
        if self.most is not None:
            index, weight = _bilinear(grid, *resized)
        # A newline behind each row, and the whole picture before all.
        ends = ((0, 0), (0, 1), (0, 0))
        index = np.pad(index, ends, constant_values=NEWLINE).reshape(-1, index.shape[-1])
        weight = np.pad(weight, ends, constant_values=1 / weight.shape[-1]).reshape(-1, weight.shape[-1])
        whole = np.repeat(np.arange(p * p)[:, None], index.shape[-1], axis=1)
        first = np.full(whole.shape, 1 / index.shape[-1], np.float32)
        return Places(np.concatenate([whole, index]).astype(np.int32), np.concatenate([first, weight]))


def _without_padding(grid: Size, size: Size) -> tuple[slice, slice]:
    """The rows and columns of a grid that a picture of this size reaches when it is centred there."""
    (rows, columns), (height, width) = grid, size
    if width / height > columns / rows:
        cut = (rows - int(round(height * (columns / width), 7))) // 2
        return slice(cut, rows - cut), slice(0, columns)
    cut = (columns - int(round(width * (rows / height), 7))) // 2
    return slice(0, rows), slice(cut, columns - cut)


def _bilinear(grid: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """int and float32 [rows, columns, 4]: which entries of the grid, and how much of each, a resized one is made of, as
    torch's `interpolate(mode="bilinear")` has it."""

    def axis(length: int, resized: int) -> tuple[np.ndarray, np.ndarray]:
        at = np.maximum((np.arange(resized) + 0.5) * (length / max(resized, 1)) - 0.5, 0)
        first = at.astype(int)
        return np.stack([first, np.minimum(first + 1, length - 1)], -1), np.stack([1 - at + first, at - first], -1)

    (y, down), (x, across) = axis(grid.shape[0], rows), axis(grid.shape[1], columns)
    index = grid[y[:, None, :, None], x[None, :, None, :]]
    weight = down[:, None, :, None] * across[None, :, None, :]
    return index.reshape(rows, columns, 4), weight.reshape(rows, columns, 4).astype(np.float32)


def placed(image_mask: np.ndarray, rows: Sequence[Sequence[tuple[Places, int]]], grids: Grids) -> Places:
    """[B, T, S], where image_mask [B, T] is True, of which features the image tokens are made; zeros elsewhere.

    rows: of every row its pictures, in order, each with the number of its tiles, whose features stand one behind the
    other.
    """
    shape = (*image_mask.shape, grids.terms)
    index, weight = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    for i, pictures in enumerate(rows):
        before, indices = 0, []
        for places, count in pictures:
            indices.append(np.where(places.index == NEWLINE, NEWLINE, places.index + before * grids.patches**2))
            before += count
        if pictures:
            index[i, image_mask[i]] = np.concatenate(indices)
            weight[i, image_mask[i]] = np.concatenate([places.weight for places, _ in pictures])
    return Places(index, weight)
