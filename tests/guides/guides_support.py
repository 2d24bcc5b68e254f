"""What the tests of the guides share."""

import jax.numpy as jnp
import numpy as np

from tga_jax.data.batch import Batch
from tga_jax.guides import Guide, Seen

DECAYS = {"constant": lambda s: 1.0, "linear": lambda s: 1 - s, "quadratic": lambda s: (1 - s) ** 2}
PAIR, HINGE = np.array([1, 0, 1, 1], bool), np.array([1, 0, 0, 1], bool)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def cos(a: np.ndarray, b: np.ndarray) -> float:
    a, b = (np.asarray(x, np.float64) for x in (a, b))
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def batch_of(pair: np.ndarray, hinge: np.ndarray) -> Batch:
    """A row of six positions a sample: an image at 1 to 3, R at 0, an answer at 5; C is two words."""
    rows, place = len(pair), np.arange(6)
    return Batch(
        tokens=jnp.zeros((rows, 6), jnp.int32),
        valid=jnp.ones((rows, 6), bool),
        targets=jnp.asarray(np.broadcast_to(place == 5, (rows, 6))),
        image_mask=jnp.asarray(pair[:, None] & (place >= 1) & (place <= 3)),
        retrieved_mask=jnp.asarray(hinge[:, None] & (place == 0)),
        caption_tokens=jnp.asarray(np.broadcast_to([1, 4, 5], (rows, 3)).astype(np.int32)),
        caption_mask=jnp.asarray(np.broadcast_to([False, True, True], (rows, 3))),
    )


def seen(guide: Guide, batch: Batch, student, teacher, s: float, **fields) -> Seen:
    """student, teacher: what the guide reads."""
    values = {"inputs": student[0], "embeddings": jnp.zeros((9, student.shape[-1])), "image_tokens": 3, **fields}
    captions = jnp.where(batch.caption_mask, batch.caption_tokens, -1)
    return Seen(
        batch, student, teacher, progress=jnp.asarray(s), counts=guide.counts(batch), captions=captions, **values
    )
