"""Samples as long as a data set's, in the batches that a training would make of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tga_jax.data.arrange import arranged
from tga_jax.data.pipeline import WINDOW
from tga_jax.train.config import TrainConfig


class Samples(NamedTuple):
    lengths: np.ndarray  # int [S], tokens with those of the picture
    pictured: np.ndarray  # bool [S]


def llava(count: int, image_tokens: int, longest: int, rng: np.random.Generator) -> Samples:
    """Samples as in LLaVA's set of 665,298, of which 40,688 have no picture and the others one, cut at `longest`.

    The lengths of the texts are assumed to be log-normal: half of those with a picture have at most 190 tokens, half
    of those without, whole conversations, at most 730.
    """
    pictured = rng.random(count) >= 40_688 / 665_298
    text = 30 + np.where(pictured, rng.lognormal(np.log(160), 0.75, count), rng.lognormal(np.log(700), 0.9, count))
    return Samples(np.minimum(text.astype(int) + pictured * image_tokens, longest), pictured)


KINDS: dict[str, Callable[[int, int, int, np.random.Generator], Samples]] = {"llava": llava}


def batches(config: TrainConfig, image_tokens: int, kind: str, windows: int = 4) -> list[tuple[int, Samples]]:
    """(the row's length, the samples) of each batch of the first windows, as `pipeline.Batches` puts them together."""
    found, size, pack = [], config.batch_size, config.data.pack
    for window in range(windows):
        rng = np.random.default_rng((config.seed, window))
        drawn = KINDS[kind](WINDOW * size, image_tokens, config.data.longest, rng)
        for own in arranged(*drawn, WINDOW, pack, rng):
            rows = drawn.lengths[own].reshape(-1, pack).sum(1)
            length = next(length for length in config.data.lengths if length >= rows.max())
            found.append((length, Samples(drawn.lengths[own], drawn.pictured[own])))
    return found
