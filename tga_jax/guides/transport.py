"""A guide on the set of a picture's tokens: which of them says which word of the caption is found by optimal transport.

Image token p has state h_p and word c of the caption, read as text alone, g_c; d_pc = |h_p - g_c|^2 / mean_c |g_c|^2.
The plan pi >= 0 moves the image tokens, of mass 1/P each, to the words, of mass 1/C each, and is the one of least

    sum_pc pi_pc d_pc + temperature * sum_pc pi_pc log pi_pc        (Sinkhorn's iterations; Cuturi, 2013)

Nearest relative: VLAP (arXiv 2404.09632), which assigns both modalities to the language model's words that way.

Shapes: J guide layers, B samples, P image tokens, C caption positions, D the decoder's width.
"""

import dataclasses

import jax
import jax.numpy as jnp

from tga_jax.data.batch import Batch
from tga_jax.guides.base import DECAYS, Array, Cost, Guide, Seen, States, Text, check_choice, has_pair
from tga_jax.losses import masked_mean
from tga_jax.models import llava


def plan(distance: Array, tokens: Array, words: Array, temperature: float, iterations: int) -> Array:
    """pi [B, P, C], 0 where there is no token or no word: distance float32 [B, P, C], tokens bool [B, P], words bool
    [B, C]. A row without any is all 0."""
    there = tokens[:, :, None] & words[:, None]
    kernel = jnp.where(there, -distance / temperature, -jnp.inf)

    def shares(mask: Array) -> Array:
        """log of the mass of each"""
        return jnp.where(mask, -jnp.log(jnp.maximum(mask.sum(-1, keepdims=True), 1.0)), -jnp.inf)

    def scaled(log_mass: Array, mask: Array, x: Array, axis: int) -> Array:
        return jnp.where(mask, log_mass - jax.nn.logsumexp(x, axis=axis, where=there), 0.0)

    def iterate(_: int, found: tuple[Array, Array]) -> tuple[Array, Array]:
        v = found[1]
        u = scaled(shares(tokens), tokens, kernel + v[:, None], 2)
        return u, scaled(shares(words), words, kernel + u[:, :, None], 1)

    zeros = jnp.zeros(tokens.shape), jnp.zeros(words.shape)
    u, v = jax.lax.fori_loop(0, iterations, iterate, zeros)
    return jnp.where(there, jnp.exp(kernel + u[:, :, None] + v[:, None]), 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transport(Guide):
    """Every word of the caption is said by some image tokens, and every image token says a word:

        L = weight * decay(s) * mean_{j in layers} sum_pc pi_pc d_pc

    where no gradient flows through pi. Unlike `Tiled` it does not say which token says which word, so that a projector
    that reads patch by patch can meet it: a patch need not know the whole caption, and no word has a place.

    temperature: of pi, in units of d; iterations: Sinkhorn's.
    """

    kind: str = "transport"
    layers: tuple[int, ...] = (0,)
    weight: float = 1.0
    decay: str = "constant"
    temperature: float = 0.1
    iterations: int = 30

    def __post_init__(self):
        super().__post_init__()
        check_choice("decay", self.decay, DECAYS)
        if not self.temperature > 0 or self.iterations < 1:
            raise ValueError(
                f"guide.temperature, iterations: {self.temperature}, {self.iterations}, expected more than 0"
            )

    def student(self, batch: Batch) -> States:
        return States()

    def teacher(self, batch: Batch) -> Text:
        valid = batch.caption_mask.at[:, 0].set(True)  # the begin token is read, and is no word
        return Text(batch.caption_tokens, valid, States())

    def counts(self, batch: Batch) -> dict[str, Array]:
        return {"pairs": has_pair(batch).sum()}

    def cost(self, length: int, caption: int, image_tokens: int) -> Cost:
        return Cost(text=caption)

    def loss(self, seen: Seen) -> tuple[Array, dict[str, Array]]:
        batch = seen.batch
        where = llava.marked(batch.image_mask, seen.image_tokens)  # [B, P]
        tokens = jnp.take_along_axis(batch.image_mask, where, axis=1)
        image = jnp.take_along_axis(seen.student, where[None, ..., None], axis=2).astype(jnp.float32)  # [J, B, P, D]
        words = seen.teacher.astype(jnp.float32)  # [J, B, C, D]
        pairs = has_pair(batch)

        def layer(h: Array, g: Array) -> tuple[Array, Array]:
            """[B, P, D], [B, C, D] -> sum_pc pi_pc d_pc and the largest pi of a token, in shares of it, [B]"""
            size = jnp.sum(g**2, -1) * batch.caption_mask  # [B, C]
            mean = size.sum(-1) / jnp.maximum(batch.caption_mask.sum(-1), 1)
            squares = jnp.sum(h**2, -1)[..., None] + size[:, None] - 2 * jnp.einsum("BPD,BCD->BPC", h, g)
            distance = squares / jnp.maximum(mean, 1e-12)[:, None, None]
            pi = plan(jax.lax.stop_gradient(distance), tokens, batch.caption_mask, self.temperature, self.iterations)
            sharp = (pi.max(-1) / jnp.maximum(pi.sum(-1), 1e-12)).mean(-1)
            return jnp.sum(pi * distance, (1, 2)), sharp

        errors, sharp = (x.mean(0) for x in jax.vmap(layer)(image, words))
        error = masked_mean(errors, pairs, seen.counts["pairs"])
        metrics = {"guide_error": error, "guide_sharpness": masked_mean(sharp, pairs, seen.counts["pairs"])}
        return self.weight * DECAYS[self.decay](seen.progress) * error, metrics
