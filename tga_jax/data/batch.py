"""The one batch type, at the border between the host's pipeline and the model."""

from typing import Any, NamedTuple

import numpy as np


class Batch(NamedTuple):
    """Arrays of one step: NumPy on the host, jax on the device. B samples, T positions, M images, C caption tokens.

    Every array but the last two is of samples, whether these have a row each or share one (`rows`).

    Worked row with two image tokens (`plain` template, the caption is the target):

        tokens      <s> <image> <image>  a   cat  \\n  <pad>
        valid        1     1       1     1    1    1    0
        targets      0     0       0     1    1    1    0
        image_mask   0     1       1     0    0    0    0
    """

    tokens: Any  # int32 [B, T]
    valid: Any  # bool [B, T]: False on padding
    targets: Any  # bool [B, T]: tokens that the loss predicts
    image_mask: Any  # bool [B, T]: positions that image features fill
    retrieved_mask: Any  # bool [B, T]: tokens of the retrieved text R
    caption_tokens: Any  # int32 [B, C]: begin token, then the caption, right-padded
    caption_mask: Any  # bool [B, C]: the caption's own tokens
    images: Any = None  # uint8 [B, M, I, I, 3]
    image_features: Any = None  # float [B, M, P, D]: vision features computed beforehand, instead of images
    # Of a model with tiles, M of them all: (int32, float32) [B, T, S], of which features each image token is made, as
    # `data.tiles.Places` has it.
    image_places: Any = None
    # int32 [B, K], or [R, K] of shared rows: the positions before the targets, in order, then -1; None: wherever
    # `targets` says, of all.
    label_positions: Any = None
    # int32 [R, U]: where the tokens of B / R samples stand in a row of U positions, as `models.packing.Packing` has it;
    # None: each sample has a row of its own.
    rows: Any = None


def prompt_batch(tokens: np.ndarray, valid: np.ndarray, image_mask: np.ndarray, images: np.ndarray | None) -> Batch:
    """Prompts [B, T] to answer: nothing to learn, no caption."""
    none = np.zeros((len(tokens), 1))
    nowhere = np.zeros(tokens.shape, bool)
    return Batch(
        tokens=tokens,
        valid=valid,
        targets=nowhere,
        image_mask=image_mask,
        retrieved_mask=nowhere,
        caption_tokens=none.astype(np.int32),
        caption_mask=none.astype(bool),
        images=images,
    )
