"""The families of language models that are read and written, one row each."""

import dataclasses
from collections.abc import Callable
from typing import Any

import transformers

from tga_jax.errors import UserError
from tga_jax.models.llama import LlamaConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """What sets a family apart from the others; the fields that all have are read and written by `hub_config`.

    config: of transformers; architecture: the class that its exported config names; llava: the model_types that LLaVA's
    own code has for it. read: fields of LlamaConfig from a config of transformers; raises ValueError for what this
    decoder does not compute. write: fields for a config of transformers; raises ValueError for a shape that the family
    cannot have. lacks: fields that the others' configs have and this one's has not. gguf: whether GGUF files of it are
    read; pairs_together: whether llama.cpp keeps its rotary pairs beside each other, where the hub has them half a head
    apart.
    """

    config: type[Any]
    architecture: str
    llava: tuple[str, ...] = ()
    read: Callable[[Any], dict[str, Any]]
    write: Callable[[LlamaConfig], dict[str, Any]]
    lacks: tuple[str, ...] = ()
    gguf: bool = False
    pairs_together: bool = False


def _read_llama(hf: Any) -> dict[str, Any]:
    return {"qkv_bias": hf.attention_bias, "out_bias": hf.attention_bias, "mlp_bias": hf.mlp_bias}


def _write_llama(c: LlamaConfig) -> dict[str, Any]:
    if c.sliding_window is not None or c.qkv_bias != c.out_bias or c.qk_norm:
        raise ValueError(
            "Llama has no sliding window, no norms of query and key, and biases on all attention layers or none"
        )
    return {"attention_bias": c.qkv_bias, "mlp_bias": c.mlp_bias}


def _read_mistral(hf: Any) -> dict[str, Any]:
    return {"sliding_window": hf.sliding_window}


def _write_mistral(c: LlamaConfig) -> dict[str, Any]:
    if c.qkv_bias or c.out_bias or c.mlp_bias or c.qk_norm:
        raise ValueError("Mistral has no biases, and no norms of query and key")
    return {"sliding_window": c.sliding_window}


def _window(hf: Any) -> int | None:
    """Of Qwen2 and Qwen3."""
    if "sliding_attention" not in hf.layer_types:
        return None
    if set(hf.layer_types) != {"sliding_attention"}:
        raise ValueError("layer_types mixes kinds of attention, expected the same in every layer")
    if hf.sliding_window is None:
        raise ValueError("layer_types has sliding_attention, expected use_sliding_window and a sliding_window with it")
    return hf.sliding_window


def _write_window(c: LlamaConfig) -> dict[str, Any]:
    windowed = c.sliding_window is not None
    window = {"sliding_window": c.sliding_window} if windowed else {}
    return {"use_sliding_window": windowed, "max_window_layers": 0 if windowed else c.num_layers, **window}


def _read_qwen2(hf: Any) -> dict[str, Any]:
    return {"qkv_bias": True, "sliding_window": _window(hf)}


def _write_qwen2(c: LlamaConfig) -> dict[str, Any]:
    biases, fills = (c.qkv_bias, c.out_bias, c.mlp_bias), c.head_dim * c.num_heads == c.hidden_size
    if biases != (True, False, False) or not fills or c.qk_norm:
        raise ValueError(
            "Qwen2 has biases on query, key and value only, no norms of these, and heads that fill the hidden size"
        )
    return _write_window(c)


def _read_qwen3(hf: Any) -> dict[str, Any]:
    bias = hf.attention_bias
    return {"qk_norm": True, "qkv_bias": bias, "out_bias": bias, "sliding_window": _window(hf)}


def _write_qwen3(c: LlamaConfig) -> dict[str, Any]:
    if not c.qk_norm or c.qkv_bias != c.out_bias or c.mlp_bias:
        raise ValueError(
            "Qwen3 has norms of query and key, and biases on all attention layers or none, and nowhere else"
        )
    return {"attention_bias": c.qkv_bias, **_write_window(c)}


FAMILIES: dict[str, Family] = {
    "llama": Family(
        config=transformers.LlamaConfig,
        architecture="LlamaForCausalLM",
        llava=("llava", "llava_llama"),
        read=_read_llama,
        write=_write_llama,
        gguf=True,
        pairs_together=True,
    ),
    "mistral": Family(
        config=transformers.MistralConfig,
        architecture="MistralForCausalLM",
        llava=("llava_mistral",),
        read=_read_mistral,
        write=_write_mistral,
    ),
    "qwen2": Family(
        config=transformers.Qwen2Config,
        architecture="Qwen2ForCausalLM",
        read=_read_qwen2,
        write=_write_qwen2,
        lacks=("head_dim",),
        gguf=True,
    ),
    "qwen3": Family(
        config=transformers.Qwen3Config,
        architecture="Qwen3ForCausalLM",
        read=_read_qwen3,
        write=_write_qwen3,
    ),
}


def of(config: LlamaConfig) -> str:
    """The first family that can have this shape. Raises UserError if none can."""
    reasons = []
    for name, family in FAMILIES.items():
        try:
            family.write(config)
        except ValueError as error:
            reasons.append(str(error))
        else:
            return name
    raise UserError(f"no family has a decoder of this shape: {'; '.join(reasons)}")
