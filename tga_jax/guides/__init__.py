"""The guides: what Text-Guided Alignment adds to the language loss. The paper's equation is `pooled.Paper`."""

from tga_jax.guides.base import Cost, Guide, Means, Seen, States, Text, has_pair
from tga_jax.guides.pooled import Paper, Released
from tga_jax.guides.twin import Instruction, Tiled

__all__ = [
    "Cost", "Guide", "Instruction", "Means", "Paper", "Released", "Seen", "States", "Text", "Tiled", "has_pair",
]  # fmt: skip
