"""FLOPs and bytes of one training step, as formulas.

Dimension letters, all of one row but B: B rows, T positions, C caption positions, M pictures, P patches with CLS, Q
image tokens of a picture, K positions with logits, D hidden, H query heads times head size, G the same of keys, F
feed-forward, V vocabulary, L blocks.

A product [m, k] x [k, n] is 2 m k n FLOPs. Left out, as in every published MFU: norms, softmax, activations, the
optimizer (of Muon, too, though it multiplies matrices). "Model" FLOPs are what the step needs, "hardware" FLOPs what it
computes: the blocks' forward pass again where activations are recomputed.

Causal attention needs half of its square of scores. Kernels such as cuDNN's compute that half (`causal=True`, the
convention of the published figures here), plain XLA the whole square (`causal=False`).
"""

import dataclasses

from tga_jax.models.clip import VisionConfig
from tga_jax.models.llama import LlamaConfig
from tga_jax.models.llava import LlavaConfig, ResamplerConfig


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
    """What one training step computes, beside the model.

    blocks: L that the sequence passes, None for all; caption_blocks: those of the caption's forward pass, up to the
    last guide layer; labels: K, None for T; guided_words: image tokens read through the vocabulary by the guide.
    projector, llm: what trains. lora_rank: r of adapters that train beside a frozen decoder's matrices, 0 for none.
    """

    rows: int
    positions: int
    caption: int = 0
    pictures: int = 1
    labels: int | None = None
    blocks: int | None = None
    caption_blocks: int = 0
    guided_words: int = 0
    projector: bool = True
    llm: bool = True
    lora_rank: int = 0
    remat: str = "none"


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


def decoder_block(c: LlamaConfig, t: int, causal: bool) -> Work:
    """2 T (D H + 2 D G + H D + 3 D F), and 2 H FLOPs each for a score and its value."""
    h = c.num_heads * c.head_dim
    return Work(2 * t * _products(c), 4 * scores(t, causal, c.sliding_window) * h)


def recomputed(c: LlamaConfig, t: int, causal: bool) -> dict[str, float]:
    """FLOPs that the backward pass of a block repeats, by remat policy.

    "full": all but the last product, whose result no gradient needs. "names" keeps query, key, value, the context and
    its projection: the scores, gate and up are left.
    """
    work = decoder_block(c, t, causal)
    return {
        "none": 0.0,
        "names": 2 * t * _products(c, ("gate", "up")) + work.attention / 2,
        "full": work.forward - 2 * t * _products(c, ("down",)),
    }


def head(c: LlamaConfig, k: int) -> Work:
    """2 K D V."""
    return Work(2 * k * c.hidden_size * c.vocab_size)


def adapters(c: LlamaConfig, t: int, rank: int) -> Work:
    """2 T r (inputs + outputs) for every matrix of a block."""
    return Work(2 * t * rank * sum(i + o for i, o in matrices(c).values()))


def vision(c: VisionConfig, feature_layer: int) -> Work:
    """A picture through the blocks below the feature layer: 24 P D^2 + 4 P^2 D each with a feed-forward of 4 D."""
    blocks = feature_layer if feature_layer >= 0 else c.num_layers + 1 + feature_layer
    d, p = c.hidden_size, c.num_patches + 1
    block = Work(2 * p * (4 * d * d + 2 * d * c.mlp_size), 4 * p * p * d)
    return Work(2 * c.num_patches * 3 * c.patch_size**2 * d) + block * blocks


def projector(c: LlavaConfig) -> tuple[Work, Work]:
    """Of one picture: the products whose input needs no gradient, because it comes of the tower, and the others."""
    features, d = c.clip.vision.hidden_size, c.llm.hidden_size
    hidden = c.projector_hidden or d
    p = c.clip.vision.num_patches + (c.feature_select == "full")
    if c.projector == "linear":
        return Work(2 * p * features * d), Work()
    if not isinstance(c.projector, ResamplerConfig):
        return Work(2 * p * features * hidden), Work(2 * p * hidden * d)
    q = c.projector.queries
    block = Work(2 * q * 6 * hidden * hidden, 4 * q * p * hidden)  # query, read, and up and down twice as wide
    # Its first layer is a norm with parameters, so that every product's input needs a gradient.
    return Work(), Work(2 * p * 2 * features * hidden + 2 * q * hidden * d) + block * c.projector.num_layers


def step(model: LlavaConfig, s: Step, causal: bool = True) -> StepFlops:
    """FLOPs of one step.

    With the projector trained, gradients pass the whole decoder: its input's (dx) always, its parameters' (dW) if it
    trains too. Else they end at the first trained block's attention.
    """
    c, t = model.llm, s.positions
    blocks = c.num_layers if s.blocks is None else s.blocks
    decoder = decoder_block(c, t, causal) * blocks
    logits = head(c, t if s.labels is None else s.labels) if blocks == c.num_layers else Work()
    words = head(c, s.guided_words)
    lora = adapters(c, t, s.lora_rank) * blocks
    first, rest = (work * s.pictures for work in projector(model))
    parts = {
        "decoder": decoder + lora,
        "logits": logits + words,
        "projector": first + rest,
        "caption": (decoder_block(c, s.caption, causal) + adapters(c, s.caption, s.lora_rank)) * s.caption_blocks,
        "vision": vision(model.clip.vision, model.feature_layer) * s.pictures,
    }
    below = s.projector or s.llm  # the embedding is a part of the decoder that trains with it
    learns = below or s.lora_rank > 0
    backward = 0.0
    if learns:
        backward += decoder.backward(True, s.llm) + logits.backward(True, s.llm) + lora.backward()
    if not below:
        backward -= 2 * t * _products(c, ("query", "key", "value")) if learns else 0.0
    if s.projector:
        backward += first.backward(inputs=False) + rest.backward() + words.backward(parameters=False)
    forward = sum(work.forward for work in parts.values())
    again = recomputed(c, t, causal)[s.remat] * blocks if learns else 0.0
    named = {name: s.rows * work.forward for name, work in parts.items()}
    return StepFlops(s.rows * (forward + backward), s.rows * (forward + backward + again), named)
