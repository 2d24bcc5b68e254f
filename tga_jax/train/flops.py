"""FLOPs and bytes of one training step, as formulas.

Dimension letters, all of one row but B: B rows, T positions, C caption positions, M pictures, P patches with CLS, Q
image tokens of a picture, K positions with logits, D hidden, H query heads times head size, G the same of keys, F
feed-forward, V vocabulary, L blocks.

A product [m, k] x [k, n] is 2 m k n FLOPs. Left out, as in every published MFU: norms, softmax, activations, the
optimizer (of Muon, too, though it multiplies matrices). "Model" FLOPs are what the step needs, "hardware" FLOPs what it
computes: the blocks' forward pass again where activations are recomputed; not what a kernel repeats within itself.

Causal attention needs half of its square of scores. Kernels such as cuDNN's compute that half (`causal=True`, the
convention of the published figures here), attention in blocks a block's share more, and attention "xla" the whole
square (`causal=False`). Of samples that share a row each has its own square; they are counted as if equally long.
"""

import dataclasses
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from tga_jax.models import llava, sharding
from tga_jax.models.clip import Layers, VisionConfig, blocks_below
from tga_jax.models.llama import LlamaConfig
from tga_jax.models.llava import LlavaConfig


@dataclasses.dataclass(frozen=True)
class Work:
    """Forward FLOPs of products with a parameter, and of products of two activations, those of attention."""

    weights: float = 0.0
    attention: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.weights + other.weights, self.attention + other.attention)

    def __mul__(self, count: float) -> "Work":
        return Work(count * self.weights, count * self.attention)

    @property
    def forward(self) -> float:
        return self.weights + self.attention

    def backward(self, inputs: bool = True, parameters: bool = True) -> float:
        """One product for the gradient of every factor that needs one; of attention both factors do."""
        return self.weights * (inputs + parameters) + 2 * self.attention * (inputs or parameters)


@dataclasses.dataclass(frozen=True)
class Step:
    """What one training step computes, beside the model; all but `rows` of one row.

    samples: that share it; blocks: L that the sequence passes, None for all; caption_blocks: those of the caption's
    forward pass, up to the last guide layer; labels: K, None for T, 0 without a language loss; guided_words: image
    tokens read through the vocabulary by the guide; tower: whether pictures pass it, or come as its features.
    trains: the projector, the decoder's own parameters ("llm"), LoRA's beside them ("lora").
    """

    rows: int
    positions: int
    caption: int = 0
    pictures: int = 1
    labels: int | None = None
    blocks: int | None = None
    caption_blocks: int = 0
    guided_words: int = 0
    tower: bool = True
    trains: frozenset[str] = frozenset({"projector", "llm"})
    samples: int = 1
    reference: bool = False  # whether the sequence passes the decoder as it was at first, too


@dataclasses.dataclass(frozen=True)
class StepFlops:
    """Of the whole step, all rows. parts: forward FLOPs by name."""

    model: float
    hardware: float
    parts: dict[str, float]


def matrices(c: LlamaConfig) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of a decoder block's matrices."""
    d, f = c.hidden_size, c.mlp_size
    h, g = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    return {
        "query": (d, h),
        "key": (d, g),
        "value": (d, g),
        "out": (h, d),
        "gate": (d, f),
        "up": (d, f),
        "down": (f, d),
    }


def _products(c: LlamaConfig, names: tuple[str, ...] | None = None) -> int:
    """Multiplications of one position with a block's matrices, or with those named."""
    return sum(i * o for name, (i, o) in matrices(c).items() if names is None or name in names)


def scores(t: int, causal: bool, window: int | None = None) -> int:
    """Pairs of query and key of T positions: T^2, or those that the causal mask and its window leave."""
    if not causal:
        return t * t
    w = min(t, window or t)
    return w * (w + 1) // 2 + (t - w) * w


def decoder_blocks(c: LlamaConfig, t: int, causal: bool, count: int, samples: int = 1) -> Work:
    """The first `count` blocks: 2 T (D H + 2 D G + H D + 3 D F) each, and 2 H FLOPs each for a score and its value, of
    which a block with a sliding window has fewer. samples: that share the T positions."""
    windows = (c.sliding_window if windowed else None for windowed in c.windowed[:count])
    seen = samples * sum(scores(t // samples, causal, window) for window in windows)
    return Work(2 * t * _products(c) * count, 4 * seen * c.num_heads * c.head_dim)


def adapters(c: LlamaConfig, t: int) -> tuple[Work, Work]:
    """LoRA's products in a block: 2 T r inputs of every target, and 2 T r outputs."""
    if c.lora is None:
        return Work(), Work()
    down, up = (sum(matrices(c)[name][i] for name in c.lora.targets) for i in (0, 1))
    return Work(2 * t * c.lora.rank * down), Work(2 * t * c.lora.rank * up)


def recomputed(c: LlamaConfig, t: int, causal: bool, count: int, samples: int = 1) -> float:
    """FLOPs that the backward pass of the first `count` blocks repeats, by the remat policy.

    "full": all but the last product, whose result no gradient needs unless a norm reads it. "names" keeps query, key,
    value, the context and its projection: the scores, gate and up are left. Of LoRA the "up" half of these, and all
    "down" halves.
    """
    if c.remat == "none":
        return 0.0
    work, (down, _) = decoder_blocks(c, t, causal, count, samples), adapters(c, t)
    targets = () if c.lora is None else c.lora.targets
    rank = 0 if c.lora is None else c.lora.rank
    again = ("gate", "up") if c.remat == "names" else tuple(name for name in matrices(c) if name != "down")
    again = again if c.norms == "pre" else (*again, "down")
    ups = 2 * t * rank * sum(matrices(c)[name][1] for name in targets if name in again)
    attention = work.attention / 2 if c.remat == "names" else work.attention
    return (2 * t * _products(c, again) + down.forward + ups) * count + attention


def head(c: LlamaConfig, k: int) -> Work:
    """2 K D V."""
    return Work(2 * k * c.hidden_size * c.vocab_size)


def vision(c: VisionConfig, feature_layer: Layers) -> Work:
    """A picture through the blocks below the feature layer: 24 P D^2 + 4 P^2 D each with a feed-forward of 4 D."""
    blocks = max(blocks_below(c, feature_layer))
    d, p = c.hidden_size, c.num_patches + c.has_cls
    block = Work(2 * p * (4 * d * d + 2 * d * c.mlp_size), 4 * p * p * d)
    return Work(2 * c.num_patches * 3 * c.patch_size**2 * d) + block * blocks


def projector(c: LlavaConfig) -> tuple[Work, Work]:
    """Of one picture: the products whose input needs no gradient, because it comes of the tower, and the others."""
    found = c.projector.products(c.features, c.feature_width, c.llm.hidden_size)
    return Work(2 * found.first), Work(2 * found.rest, 2 * found.attention)


def _divided(c: LlavaConfig) -> int:
    """Numbers in the projector's parameters that FSDP divides."""
    made = jax.eval_shape(lambda: llava.init(c, jax.random.key(0), ("projector",)))
    flat: dict[str, Any] = flatten_dict(made, sep="/")
    return sum(x.size for path, x in flat.items() if "fsdp" in sharding.rule(path))


def step(model: LlavaConfig, s: Step, causal: bool = True) -> StepFlops:
    """FLOPs of one step.

    Gradients pass the whole decoder: its inputs' (dx) always, its parameters' (dW) if it trains. The scan over blocks
    computes the first block's dx even where nothing below it learns.
    """
    c, t = model.llm, s.positions
    blocks = c.num_layers if s.blocks is None else s.blocks
    decoder = decoder_blocks(c, t, causal, blocks, s.samples)
    lora = sum(adapters(c, t), Work()) * blocks
    logits = head(c, t if s.labels is None else s.labels)
    words = head(c, s.guided_words)
    first, rest = (work * s.pictures for work in projector(model))
    caption = sum(adapters(c, s.caption), Work()) * s.caption_blocks
    parts = {
        "decoder": decoder + lora,
        "logits": logits + words,
        "projector": first + rest,
        "caption": decoder_blocks(c, s.caption, causal, s.caption_blocks, s.samples) + caption,
        "reference": (decoder + logits + first + rest) * s.reference,
        "vision": vision(model.clip.vision, model.feature_layer) * (s.tower * s.pictures),
    }
    backward, again = 0.0, 0.0
    if s.trains:
        llm = "llm" in s.trains
        backward = decoder.backward(True, llm) + logits.backward(True, llm) + lora.backward(True, "lora" in s.trains)
        again = recomputed(c, t, causal, blocks, s.samples)
    if "projector" in s.trains:
        backward += first.backward(inputs=False) + rest.backward() + words.backward(parameters=False)
    forward = sum(work.forward for work in parts.values())
    named = {name: s.rows * work.forward for name, work in parts.items()}
    return StepFlops(s.rows * (forward + backward), s.rows * (forward + backward + again), named)


def kept(model: LlavaConfig, s: Step, causal: bool, itemsize: int = 2) -> float:
    """Estimated bytes of activations at the fullest moment of a step's backward pass, of all rows.

    Of every block what the remat policy keeps, D for its input and more; and of one block, or of the logits with their
    gradient, all that is in use there: 5 F for the feed-forward part, 4 D in float32 for two norms, and, where the
    scores are written out (not `causal`), two of their squares in float32 and one in `itemsize`.
    """
    c, t = model.llm, s.positions
    h, g = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
    squares = 0 if causal else c.num_heads * s.samples * (t // s.samples) ** 2 * (8 + itemsize)
    names = t * itemsize * (2 * c.hidden_size + 2 * h + 2 * g)
    norms = 32 if c.norms == "sandwich" else 16
    used = t * (itemsize * 5 * c.mlp_size + norms * c.hidden_size) + squares
    each = {"full": t * itemsize * c.hidden_size, "names": names, "none": names + used}[c.remat]
    logits = 8 * (t if s.labels is None else s.labels) * c.vocab_size
    blocks = c.num_layers if s.blocks is None else s.blocks
    return s.rows * (blocks * each + max(used, logits))


def gathering(model: LlavaConfig, itemsize: int = 2, tensor: int = 1) -> float:
    """Estimated bytes that FSDP has gathered at one time: two blocks, one in use and one on its way, their gradients,
    and the head with its gradient in float32."""
    c = model.llm
    return (4 * itemsize * _products(c) + (itemsize + 4) * c.hidden_size * c.vocab_size) / tensor


def gathered(model: LlavaConfig, s: Step, itemsize: int = 2, tensor: int = 1) -> float:
    """Bytes of parameters that FSDP gathers to every device in a step, or in each of its accumulated parts.

    itemsize: bytes of a parameter in the computation; tensor: devices that divide the matrices of the transformers.
    A block's once for the forward and once for the backward pass, where recomputing shares the second, and once more
    for the caption's; the tower's, the projector's and the head's, which both passes use in turn, once. The table of
    embeddings stays where it is: its rows are sent, not the table.
    """
    c, v = model.llm, model.clip.vision
    blocks = c.num_layers if s.blocks is None else s.blocks
    passes = (2 if s.trains else 1) * blocks + s.caption_blocks
    tower = vision(v, model.feature_layer).weights / (2 * (v.num_patches + v.has_cls))
    logits = 0 if s.labels == 0 else c.hidden_size * c.vocab_size
    return itemsize * ((passes * _products(c) + logits + tower) / tensor + _divided(model))
