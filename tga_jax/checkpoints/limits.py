"""Ranges of the numbers in a model's config, by the hub's names and by ours. They are checked before anything is made
of the numbers: transformers makes a list of a config's layers, and programs are traced for its widths.

Far beyond all that has been published, and small enough that a config alone takes neither memory nor time.
"""

import math
from typing import Any

from tga_jax.errors import UserError

HUGE = 2**31  # which no array's axis has
_WIDTH, _HEADS, _LAYERS, _POSITIONS = (1, 2**17), (1, 2**12), (1, 1000), (1, HUGE - 1)
_WHOLE: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("hidden_size", "projection_dim", "embed_size", "hidden", "r", "rank"), _WIDTH),
    **dict.fromkeys(("intermediate_size", "mlp_size"), (1, 2**20)),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "num_heads", "num_kv_heads", "head_dim"), _HEADS),
    **dict.fromkeys(("num_hidden_layers", "num_layers"), _LAYERS),
    **dict.fromkeys(("vocab_size", "queries"), (1, 2**24)),
    **dict.fromkeys(("image_size", "patch_size"), (1, 2**14)),
    **dict.fromkeys(("max_position_embeddings", "context_length", "original_length", "sliding_window"), _POSITIONS),
    "max_window_layers": (0, HUGE - 1),
    **dict.fromkeys(("image_token_id", "image_token_index"), (0, HUGE - 1)),
    "most": (1, 9999),
}
_POSITIVE, _SHARE = (1e-9, 1e18), (0.0, 1.0)
_REAL: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("rms_norm_eps", "layer_norm_eps"), _SHARE),
    **dict.fromkeys(("attention_cap", "logit_cap", "attn_logit_softcapping", "final_logit_softcapping"), _POSITIVE),
    **dict.fromkeys(("query_pre_attn_scalar", "rope_theta", "local_rope_theta", "lora_alpha"), _POSITIVE),
    **dict.fromkeys(("factor", "low_freq_factor", "high_freq_factor", "attention_factor"), _POSITIVE),
    **dict.fromkeys(("short_factor", "long_factor"), _POSITIVE),
    "pixel_mean": (0.0, 10.0),
    "pixel_std": (1e-9, 10.0),
}
# Of ours; the hub's `rope_parameters` are `rope_config`'s concern.
_PARTS = ("text_config", "vision_config", "clip", "vision", "text", "llm", "projector", "rope_scaling", "tiles")


def number(where: str, name: str, value: Any, like: str = "") -> None:
    """Raises UserError for a value of the field `name` that is no number in its range; like: another name of it."""
    known = like or name
    if (span := _WHOLE.get(known)) is not None:
        if type(value) is not int or not span[0] <= value <= span[1]:
            raise UserError(f"{where}: {name} is {value!r:.60}, expected a whole number from {span[0]} to {span[1]}")
    elif (real := _REAL.get(known)) is not None:
        good = type(value) in (int, float) and math.isfinite(value)
        if not good or not real[0] <= value <= real[1]:
            raise UserError(f"{where}: {name} is {value!r:.60}, expected a number from {real[0]:g} to {real[1]:g}")


def check(where: str, raw: dict[str, Any]) -> None:
    """Raises UserError naming a number that is not in its range, at any depth; what is null counts as left out."""
    for name, value in raw.items():
        if isinstance(value, dict) and name.removesuffix("_dict") in _PARTS:
            if name != "rope_scaling" or "kind" in value:  # the hub's is `rope_config`'s concern
                check(f"{where}: {name}", value)
        elif isinstance(value, list | tuple) and name in _REAL:
            for one in value:
                number(where, name, one)
        elif value is not None:
            number(where, name, value)
