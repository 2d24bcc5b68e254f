"""A guide on the set of a picture's tokens: which of them says which word of the caption is found by optimal transport.

Image token p has state h_p and word c of the caption, read as text alone, g_c; d_pc = |h_p - g_c|^2 / mean_c |g_c|^2.
The plan pi >= 0 moves the image tokens, of mass 1/P each, to the words, of masses m_c that sum to 1, and is the one of
least

    sum_pc pi_pc d_pc + temperature * sum_pc pi_pc log pi_pc        (Sinkhorn's iterations; Cuturi, 2013)

Nearest relative: VLAP (arXiv 2404.09632), which assigns both modalities to the language model's words that way.

Shapes: J guide layers, B samples, P image tokens, C caption positions, D the decoder's width.
"""

import dataclasses

import jax
import jax.numpy as jnp

from tga_jax.data.batch import Batch
from tga_jax.errors import check_range
from tga_jax.guides.base import DECAYS, Array, Cost, Guide, Seen, States, Text, check_choice, has_pair
from tga_jax.losses import masked_mean
from tga_jax.models import llava

MASSES = ("alike", "rarity")


def rarity(captions: Array, among: Array) -> Array:
    """log((1 + N) / N_c) of each word, where N_c of the N captions `among` say it; undefined where there is no word.

    captions int32 [B, C]; among int32 [N, C], which has them all, -1 where there is no word. Returns float32 [B, C].
    """
    said = jnp.any(captions[:, :, None, None] == among, axis=-1).sum(-1)  # [B, C]
    return jnp.log((1 + (among >= 0).any(-1).sum()) / jnp.maximum(said, 1))


def plan(distance: Array, tokens: Array, words: Array, temperature: float, iterations: int) -> Array:
    """pi [B, P, C], 0 where there is no token or no word: distance float32 [B, P, C]; tokens [B, P] and words [B, C]:
    the mass of each in any unit, 0 or False where there is none. A row without any is all 0."""
    there = (tokens > 0)[:, :, None] & (words > 0)[:, None]
    kernel = jnp.where(there, -distance / temperature, -jnp.inf)

    def scaled(mass: Array, x: Array, axis: int) -> Array:
        share = mass / jnp.maximum(mass.sum(-1, keepdims=True), 1e-12)
        log_share = jnp.log(jnp.where(mass > 0, share, 1.0))
        return jnp.where(mass > 0, log_share - jax.nn.logsumexp(x, axis=axis, where=there), 0.0)

    def iterate(_: int, found: tuple[Array, Array]) -> tuple[Array, Array]:
        v = found[1]
        u = scaled(tokens, kernel + v[:, None], 2)
        return u, scaled(words, kernel + u[:, :, None], 1)

    zeros = jnp.zeros(tokens.shape), jnp.zeros(words.shape)
    u, v = jax.lax.fori_loop(0, iterations, iterate, zeros)
    return jnp.where(there, jnp.exp(kernel + u[:, :, None] + v[:, None]), 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transport(Guide):
    """Every word of the caption is said by some image tokens, and every image token says a word:

        L = weight * decay(s) * mean_{j in layers} sum_pc pi_pc d_pc

    where no gradient flows through pi. Unlike `Tiled` it does not say which token says which word, so that a projector
    that reads patch by patch can meet it: a patch need not know the whole caption, and no word has a place.

    masses: how many image tokens are to say a word. "alike": m_c = 1/C; "rarity": m_c in proportion to `rarity` among
    the captions of the step, so that most tokens say what the picture shows, and few what all captions say, such as
    "a" and "on"; temperature: of pi, in units of d; iterations: Sinkhorn's.
    """

    kind: str = "transport"
    layers: tuple[int, ...] = (0,)
    weight: float = 1.0
    decay: str = "constant"
    masses: str = "alike"
    temperature: float = 0.1
    iterations: int = 30

    def __post_init__(self):
        super().__post_init__()
        check_choice("decay", self.decay, DECAYS)
        check_choice("masses", self.masses, MASSES)
        check_range(self, "guide", "weight")
        check_range(self, "guide", "temperature", above=0)
        check_range(self, "guide", "iterations", least=1)

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
        masses = batch.caption_mask.astype(jnp.float32)
        if self.masses == "rarity":
            masses *= rarity(batch.caption_tokens, seen.captions)
        pairs = has_pair(batch)

        def layer(h: Array, g: Array) -> tuple[Array, Array]:
            """[B, P, D], [B, C, D] -> sum_pc pi_pc d_pc and the largest pi of a token, in shares of it, [B]"""
            size = jnp.sum(g**2, -1) * batch.caption_mask  # [B, C]
            mean = size.sum(-1) / jnp.maximum(batch.caption_mask.sum(-1), 1)
            squares = jnp.sum(h**2, -1)[..., None] + size[:, None] - 2 * jnp.einsum("BPD,BCD->BPC", h, g)
            distance = squares / jnp.maximum(mean, 1e-12)[:, None, None]
            pi = plan(jax.lax.stop_gradient(distance), tokens, masses, self.temperature, self.iterations)
            sharp = (pi.max(-1) / jnp.maximum(pi.sum(-1), 1e-12)).mean(-1)
            return jnp.sum(pi * distance, (1, 2)), sharp

        errors, sharp = (x.mean(0) for x in jax.vmap(layer)(image, words))
        error = masked_mean(errors, pairs, seen.counts["pairs"])
        metrics = {"guide_error": error, "guide_sharpness": masked_mean(sharp, pairs, seen.counts["pairs"])}
        return self.weight * DECAYS[self.decay](seen.progress) * error, metrics
