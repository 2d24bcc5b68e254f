"""The guides: what Text-Guided Alignment adds to the language loss. The paper's equation is `pooled.Paper`."""

from tga_jax.data.batch import Batch
from tga_jax.guides.base import Cost, Guide, Means, Seen, States, Text, has_pair
from tga_jax.guides.pooled import Paper, Released
from tga_jax.guides.transport import Transport
from tga_jax.guides.twin import Instruction, Tiled
from tga_jax.losses import cosine, masked_mean

# Whatever a guide of one's own needs.
__all__ = [
    "Batch", "Cost", "Guide", "Instruction", "Means", "Paper", "Released", "Seen", "States", "Text", "Tiled",
    "Transport", "cosine", "has_pair", "masked_mean",
]  # fmt: skip
