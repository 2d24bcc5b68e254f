"""How much of its attention a prompt's last position puts on the picture, block by block.

Dimension letters: L blocks, B samples, T positions, D hidden, K key/value heads, G query heads per key/value head,
H head size.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from tga_jax.models import layers, llama

Array = jax.Array


def image_attention(config: llama.LlamaConfig, blocks: dict, states: Array, valid: Array, image_mask: Array) -> Array:
    """float32 [L, B]: the share of the last position's attention that goes to image_mask [B, T], mean over the heads.

    blocks: the decoder's, stacked; states: their inputs [L, B, T, D]; valid: bool [B, T], padding at the end.
    """
    c = config
    positions, lengths = llama.positions(valid), valid.sum(1, dtype=jnp.int32)
    last = lengths[:, None] - 1
    seen = llama.masks(c, last, positions, valid)
    rope_of_last, rope = llama.rotations(c, last, lengths), llama.rotations(c, positions, lengths)
    block = llama.DecoderBlock(c, emit_states=False)

    def projected(name: str, p: dict, x: Array, rope: tuple[Array, Array]) -> Array:
        """What the block itself makes of x as its "query" or "key", [B, T, K, ..., H]; the compiler drops the rest."""
        name = f"{name}_norm" if c.qk_norm else name
        found: Any = block.apply(
            {"params": p}, x, None, None, rope, None, 0, None,
            capture_intermediates=lambda module, _: module.name == name, mutable=["intermediates"],
        )[1]  # fmt: skip
        made = found["intermediates"][name]["__call__"][0]
        made = made.reshape(*x.shape[:2], c.num_kv_heads, -1, c.head_dim)  # which `whole_qk_norm` has flat
        return layers.apply_rope(made, *rope)

    def mass(block_and_input: tuple[dict, Array, Array]) -> Array:
        p, x, windowed = block_and_input

        def own(pair: Any) -> Any:
            return jax.tree.map(partial(jnp.where, windowed), *pair) if c.is_mixed else pair

        query = projected("query", p, jnp.take_along_axis(x, last[..., None], axis=1), own(rope_of_last))[:, 0]
        key = projected("key", p, x, own(rope))[:, :, :, 0]
        products = jnp.einsum("BKGH,BTKH->BKGT", query, key, preferred_element_type=jnp.float32)
        scores = c.scores.of(products, c.head_dim)
        weights = jax.nn.softmax(jnp.where(own(seen)[:, 0, None, None], scores, -jnp.inf))
        return (weights * image_mask[:, None, None]).sum(-1).mean((1, 2))

    return jax.lax.map(mass, (blocks, states, jnp.array(c.windowed)))
