"""The paper's guide, and the one of its authors' released code: mean hidden states are pulled together by their cosine.

At layer j, of one sample: I_j is the mean state of the image tokens of the multimodal sequence, R_j that of the
retrieved text's tokens there, and C_j that of the caption's tokens, read as text alone by the same decoder; s is the
share of the training that is done. No gradient flows through C_j. A sample without an image or a caption has no term,
one without R no second term; means are over the samples that have the term.

Shapes: I_j, C_j and R_j [J, B, D], of J guide layers, B samples and D the decoder's width; cosines [J, B].
"""

import abc
import dataclasses

import chex
import jax
import jax.numpy as jnp

from tga_jax.data.batch import Batch
from tga_jax.errors import check_range
from tga_jax.guides.base import DECAYS, Array, Cost, Guide, Means, Seen, Text, check_choice, has_pair
from tga_jax.losses import cosine, masked_mean


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pooled(Guide):
    """What the two have in common."""

    pair_weight: float
    hinge_weight: float
    pair_decay: str
    hinge_decay: str

    def __post_init__(self):
        super().__post_init__()
        check_choice("pair_decay", self.pair_decay, DECAYS)
        check_choice("hinge_decay", self.hinge_decay, DECAYS)
        check_range(self, "guide", "pair_weight", "hinge_weight")

    def student(self, batch: Batch) -> Means:
        return Means(jnp.stack([batch.image_mask, batch.retrieved_mask], axis=1))  # [B, 2, T]

    def teacher(self, batch: Batch) -> Text:
        valid = batch.caption_mask.at[:, 0].set(True)  # the begin token is read, and not averaged
        return Text(batch.caption_tokens, valid, Means(batch.caption_mask[:, None]))

    def counts(self, batch: Batch) -> dict[str, Array]:
        pair = has_pair(batch)
        return {"pairs": pair.sum(), "hinges": (pair & batch.retrieved_mask.any(1)).sum()}

    def cost(self, length: int, caption: int, image_tokens: int) -> Cost:
        return Cost(text=caption)

    @abc.abstractmethod
    def terms(self, image: Array, retrieved: Array) -> tuple[Array, Array]:
        """The pair's and the hinge's term of every layer and sample, from cos(I_j, C_j) and cos(R_j, C_j) [J, B]."""

    @abc.abstractmethod
    def over_layers(self, terms: Array) -> Array:
        """[J] -> scalar."""

    def loss(self, seen: Seen) -> tuple[Array, dict[str, Array]]:
        dims = chex.Dimensions(J=len(self.layers), B=len(seen.batch.tokens), D=seen.embeddings.shape[1], S=2, C=1)
        chex.assert_shape(seen.student, dims["JBSD"])
        chex.assert_shape(seen.teacher, dims["JBCD"])
        image, retrieved = seen.student[:, :, 0], seen.student[:, :, 1]  # I_j, R_j [J, B, D]
        caption = seen.teacher[:, :, 0]  # C_j [J, B, D]
        pairs = has_pair(seen.batch)
        hinges = pairs & seen.batch.retrieved_mask.any(1)

        def mean(x: Array, mask: Array, name: str) -> Array:
            """[J, B] -> [J]"""
            return jax.vmap(lambda row: masked_mean(row, mask, seen.counts[name]))(x)

        cos_image, cos_retrieved = cosine(image, caption), cosine(retrieved, caption)  # [J, B]
        pair, hinge = self.terms(cos_image, cos_retrieved)
        pair, hinge = mean(pair, pairs, "pairs"), mean(hinge, hinges, "hinges")  # [J]
        weights = (
            self.pair_weight * DECAYS[self.pair_decay](seen.progress),
            self.hinge_weight * DECAYS[self.hinge_decay](seen.progress),
        )
        pair, hinge = self.over_layers(pair), self.over_layers(hinge)
        by_layer = mean(cos_image, pairs, "pairs")
        # Different captions' states are close to each other too: a cosine means something only against this one.
        mismatched = mean(cosine(image, jnp.roll(caption, 1, axis=1)), pairs, "pairs")
        metrics = {
            "guide_pair": pair,
            "guide_hinge": hinge,
            "cos_image_caption": jnp.mean(by_layer),
            **{f"cos_image_caption/{layer}": by_layer[j] for j, layer in enumerate(self.layers)},
            "cos_mismatched": jnp.mean(mismatched),
        }
        return weights[0] * pair + weights[1] * hinge, metrics


@dataclasses.dataclass(frozen=True, kw_only=True)
class Paper(Pooled):
    """The equation of Xu et al. (ICLR 2025, arXiv 2410.12662):

        L = sum_{j=1..N} [ -cos(I_j, C_j) + log(1 + exp(cos(R_j, C_j) - cos(I_j, C_j))) ]

    over all N blocks, with weights 1 and no decay, which are the defaults. With the fields:

        L = reduce_{j in layers} [ pair_weight * pair_decay(s) * -cos(I_j, C_j)
                                   + hinge_weight * hinge_decay(s) * log(1 + exp(cos(R_j, C_j) - cos(I_j, C_j))) ]

    reduce: "sum" or "mean" over the layers.
    """

    kind: str = "paper"
    pair_weight: float = 1.0
    hinge_weight: float = 1.0
    pair_decay: str = "constant"
    hinge_decay: str = "constant"
    reduce: str = "sum"

    def __post_init__(self):
        super().__post_init__()
        check_choice("reduce", self.reduce, ("sum", "mean"))

    def terms(self, image: Array, retrieved: Array) -> tuple[Array, Array]:
        return -image, jax.nn.softplus(retrieved - image)

    def over_layers(self, terms: Array) -> Array:
        return jnp.sum(terms) if self.reduce == "sum" else jnp.mean(terms)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Released(Pooled):
    """The loss of the released code (repository xsc1234/VLM_Safety_Transfer, commit 2e1be15), which is another one:

        L = mean_{j in layers} [ pair_weight * pair_decay(s) * exp(-cos(I_j, C_j))
                                 + hinge_weight * hinge_decay(s) * exp(cos(R_j, C_j) - cos(I_j, C_j)) ]

    with their layers 10 to 18 of 32, weights 1/4 and 1/10 and decays 1 - s and (1 - s)^2.

    stop_gradient: their terms teach nothing, because `math.exp` of a tensor gives a Python number; so here on request.
    short_image_span: their I_j leaves out the last image token.
    """

    kind: str = "released"
    layers: tuple[int, ...] = tuple(range(10, 19))
    pair_weight: float = 0.25
    hinge_weight: float = 0.1
    pair_decay: str = "linear"
    hinge_decay: str = "quadratic"
    stop_gradient: bool = False
    short_image_span: bool = False

    def student(self, batch: Batch) -> Means:
        image = batch.image_mask
        if self.short_image_span:
            last = jnp.cumsum(image, axis=1) == image.sum(1, keepdims=True)
            image = image & ~last
        return Means(jnp.stack([image, batch.retrieved_mask], axis=1))

    def terms(self, image: Array, retrieved: Array) -> tuple[Array, Array]:
        return jnp.exp(-image), jnp.exp(retrieved - image)

    def over_layers(self, terms: Array) -> Array:
        return jnp.mean(terms)

    def loss(self, seen: Seen) -> tuple[Array, dict[str, Array]]:
        loss, metrics = super().loss(seen)
        return (jax.lax.stop_gradient(loss) if self.stop_gradient else loss), metrics
