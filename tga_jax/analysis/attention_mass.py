"""How much of its attention a prompt's last position puts on the picture, block by block.

Dimension letters: L blocks, B samples, T positions, D hidden, K key/value heads, G query heads per key/value head,
H head size.
"""

from typing import Any

import jax
import jax.numpy as jnp

from tga_jax.models import attention, layers, llama

Array = jax.Array


def image_attention(config: llama.LlamaConfig, blocks: dict, states: Array, valid: Array, image_mask: Array) -> Array:
    """float32 [L, B]: the share of the last position's attention that goes to image_mask [B, T], mean over the heads.

    blocks: the decoder's, stacked; states: their inputs [L, B, T, D]; valid: bool [B, T], padding at the end.
    """
    c = config
    positions = llama.positions(valid)
    last = valid.sum(1, dtype=jnp.int32)[:, None] - 1
    seen = attention.causal_mask(last, positions, valid, c.sliding_window)[:, 0, None, None]
    block = llama.DecoderBlock(c, emit_states=False)

    def projected(name: str, p: dict, x: Array, positions: Array) -> Array:
        """What the block itself makes of x as its "query" or "key"; the compiler drops the rest of it."""
        name = f"{name}_norm" if c.qk_norm else name
        rope = layers.rope_angles(positions, c.head_dim, c.rope_theta, c.rope_scaling)
        found: Any = block.apply(
            {"params": p}, x, None, rope, None, 0, None,
            capture_intermediates=lambda module, _: module.name == name, mutable=["intermediates"],
        )[1]  # fmt: skip
        return layers.apply_rope(found["intermediates"][name]["__call__"][0], *rope)

    def mass(block_and_input: tuple[dict, Array]) -> Array:
        p, x = block_and_input
        query = projected("query", p, jnp.take_along_axis(x, last[..., None], axis=1), last)
        scores = jnp.einsum(
            "BKGH,BTKH->BKGT", query[:, 0], projected("key", p, x, positions), preferred_element_type=jnp.float32
        )
        weights = jax.nn.softmax(jnp.where(seen, scores * c.head_dim**-0.5, -jnp.inf))
        return (weights * image_mask[:, None, None]).sum(-1).mean((1, 2))

    return jax.lax.map(mass, (blocks, states))
