"""A guide of your own: copy this file, change the class, and train with it. No other file has to know of it.

Run, on the data of `own_data.py` and with its flags:
    bash launch/local.sh train --config=configs/fork_guide.py --workdir=runs/mine ...
A guide that stands elsewhere is named "module:Class" or "file.py:Class".
"""

import dataclasses

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from configs import own_data
from tga_jax.guides import Batch, Cost, Guide, Means, Seen, Text, cosine, has_pair, masked_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Margin(Guide):
    """The states at the last image token, x_j, and at the first token behind the picture, y_j, come near the caption's
    mean state C_j, but no nearer than a margin:

        L = weight * mean_{j in layers} [ max(0, margin - cos(x_j, C_j)) + max(0, margin - cos(y_j, C_j)) ]

    in the mean over samples with an image and a caption.
    """

    layers: tuple[int, ...] = (1,)
    weight: float = 1.0
    margin: float = 0.8

    def student(self, batch: Batch) -> Means:
        seen = jnp.cumsum(batch.image_mask, axis=1)  # image tokens up to each position [B, T]
        all_seen = seen == batch.image_mask.sum(1, keepdims=True)
        last_image = batch.image_mask & all_seen
        behind = jnp.cumsum(all_seen & ~batch.image_mask, axis=1) == 1
        return Means(jnp.stack([last_image, behind & ~batch.image_mask], axis=1))  # [B, 2, T]

    def teacher(self, batch: Batch) -> Text:
        valid = batch.caption_mask.at[:, 0].set(True)  # with the begin token
        return Text(batch.caption_tokens, valid, Means(batch.caption_mask[:, None]))

    def counts(self, batch: Batch) -> dict[str, jax.Array]:
        return {"pairs": has_pair(batch).sum()}

    def loss(self, seen: Seen) -> tuple[jax.Array, dict[str, jax.Array]]:
        near = cosine(seen.student, seen.teacher)  # [J, B, 2]; of each layer and sample the caption's one state
        term = jnp.mean(jnp.sum(jax.nn.relu(self.margin - near), axis=-1), axis=0)  # [B]
        pairs, count = has_pair(seen.batch), seen.counts["pairs"]
        metrics = {"cos_at_positions": masked_mean(jnp.mean(near, axis=(0, 2)), pairs, count)}
        return self.weight * masked_mean(term, pairs, count), metrics

    def cost(self, length: int, caption: int, image_tokens: int) -> Cost:
        return Cost(text=caption)


def get_config() -> ConfigDict:
    config = own_data.get_config("stage1")
    config.name = "fork-guide"
    config.loss = {"lm": 1.0, "guide": {"kind": Margin, "layers": (1, 2), "weight": 0.5, "margin": 0.8}}
    return config
