"""The families of language models that are read and written, one row each."""

import dataclasses
from collections.abc import Callable
from typing import Any

import transformers

from tga_jax.errors import UserError
from tga_jax.models.llama import LlamaConfig


def _nothing(_: Any) -> dict[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """What sets a family apart from the others; the fields that all have are read and written by `hub_config`.

    config: of transformers; architecture: the class that its exported config names; llava: the model_types that LLaVA's
    own code has for it.

    traits: fields of LlamaConfig that all of the family share. free: those on which its configs decide; the rest of
    TRAITS have their defaults in it. read: the free ones from a config of transformers; raises ValueError for what this
    decoder does not compute. write: fields for a config of transformers; raises ValueError for a combination of the
    free ones that the family cannot have.

    lacks: fields that the others' configs have and this one's has not. also: fields of its files that transformers'
    class does not declare: which it translates, or does without. fixed: such fields with the only values that are
    computed. activation: which field names the activation. local_rope: whether rope_parameters are two, of blocks with
    a window and of the others. ropes: of its rotary scalings those that transformers computes.
    fused: whether its query, key and value are one matrix in a checkpoint, and its gate and up another. gguf: whether
    GGUF files of it are read; pairs_together: whether llama.cpp keeps its rotary pairs beside each other, where the hub
    has them half a head apart.
    """

    config: type[Any]
    architecture: str
    llava: tuple[str, ...] = ()
    traits: dict[str, Any] = dataclasses.field(default_factory=dict)
    free: tuple[str, ...] = ()
    read: Callable[[Any], dict[str, Any]] = _nothing
    write: Callable[[LlamaConfig], dict[str, Any]] = _nothing
    lacks: tuple[str, ...] = ()
    also: frozenset[str] = frozenset()
    fixed: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    activation: str = "hidden_act"
    local_rope: bool = False
    ropes: tuple[str, ...] = ("default", "linear", "llama3")
    fused: bool = False
    gguf: bool = False
    pairs_together: bool = False

    def check(self, c: LlamaConfig) -> None:
        """Raises ValueError naming the first trait that the family cannot have."""
        for name in TRAITS:
            expected = self.traits.get(name, _DEFAULTS[name])
            if name not in self.free and getattr(c, name) != expected:
                raise ValueError(f"{name} is {getattr(c, name)!r}, expected {expected!r}")


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(LlamaConfig)} | {"sliding_window": None}
TRAITS = (
    "sliding_window", "window_pattern", "qkv_bias", "out_bias", "mlp_bias", "qk_norm", "whole_qk_norm", "norms",
    "zero_centered_norms", "scaled_embeddings", "query_pre_attn_scalar", "attention_cap", "logit_cap",
    "local_rope_theta", "rotary_fraction",
)  # fmt: skip


def _attention_bias(hf: Any) -> dict[str, Any]:
    return {"qkv_bias": hf.attention_bias, "out_bias": hf.attention_bias}


def _write_attention_bias(c: LlamaConfig) -> dict[str, Any]:
    if c.qkv_bias != c.out_bias:
        raise ValueError(f"out_bias is {c.out_bias}, expected {c.qkv_bias} as qkv_bias: on all of attention, or none")
    return {"attention_bias": c.qkv_bias}


def _heads_fill(c: LlamaConfig) -> None:
    """Of families whose configs have no head_dim."""
    if c.num_heads * c.head_dim != c.hidden_size:
        raise ValueError(f"head_dim is {c.head_dim}, expected hidden_size / num_heads, {c.hidden_size / c.num_heads}")


def _windows(hf: Any) -> dict[str, Any]:
    """Of families with layer_types."""
    kinds = {"full_attention", "sliding_attention"}
    if unknown := set(hf.layer_types) - kinds:
        raise ValueError(f"layer_types has {min(unknown)}, expected {' and '.join(sorted(kinds))}")
    windowed = tuple(kind == "sliding_attention" for kind in hf.layer_types)
    if not any(windowed):
        return {}
    if hf.sliding_window is None:
        raise ValueError("layer_types has sliding_attention, expected use_sliding_window and a sliding_window with it")
    count = len(windowed)
    period = next(p for p in range(1, count + 1) if windowed == (windowed[:p] * count)[:count])
    return {"sliding_window": hf.sliding_window, "window_pattern": windowed[:period]}


def _write_windows(c: LlamaConfig) -> dict[str, Any]:
    kinds = ["sliding_attention" if windowed else "full_attention" for windowed in c.windowed]
    return {"layer_types": kinds, "sliding_window": c.sliding_window}


def _read_llama(hf: Any) -> dict[str, Any]:
    return {**_attention_bias(hf), "mlp_bias": hf.mlp_bias}


def _write_llama(c: LlamaConfig) -> dict[str, Any]:
    return {**_write_attention_bias(c), "mlp_bias": c.mlp_bias}


def _read_mistral(hf: Any) -> dict[str, Any]:
    return {"sliding_window": hf.sliding_window}


def _write_mistral(c: LlamaConfig) -> dict[str, Any]:
    return {"sliding_window": c.sliding_window}


def _write_qwen_windows(c: LlamaConfig) -> dict[str, Any]:
    """max_window_layers: blocks before the first with a window, which is all that older versions of transformers know
    of layer_types."""
    first = c.windowed.index(True) if any(c.windowed) else c.num_layers
    return {"use_sliding_window": any(c.windowed), "max_window_layers": first, **_write_windows(c)}


def _write_qwen2(c: LlamaConfig) -> dict[str, Any]:
    _heads_fill(c)
    return _write_qwen_windows(c)


def _read_qwen3(hf: Any) -> dict[str, Any]:
    return {**_attention_bias(hf), **_windows(hf)}


def _write_qwen3(c: LlamaConfig) -> dict[str, Any]:
    return {**_write_attention_bias(c), **_write_qwen_windows(c)}


def _write_olmo2(c: LlamaConfig) -> dict[str, Any]:
    _heads_fill(c)
    return _write_attention_bias(c)


def _read_gemma2(hf: Any) -> dict[str, Any]:
    if hf.use_bidirectional_attention:
        raise ValueError("use_bidirectional_attention is True, expected attention to earlier positions alone")
    return {
        **_attention_bias(hf),
        **_windows(hf),
        "query_pre_attn_scalar": hf.query_pre_attn_scalar,
        "attention_cap": hf.attn_logit_softcapping,
        "logit_cap": hf.final_logit_softcapping,
    }


def _write_gemma2(c: LlamaConfig) -> dict[str, Any]:
    return {
        **_write_attention_bias(c),
        **_write_windows(c),
        "query_pre_attn_scalar": c.head_dim if c.query_pre_attn_scalar is None else c.query_pre_attn_scalar,
        "attn_logit_softcapping": c.attention_cap,
        "final_logit_softcapping": c.logit_cap,
    }


def _read_gemma3(hf: Any) -> dict[str, Any]:
    if hf.attn_logit_softcapping is not None:  # which transformers' class has and does not compute
        raise ValueError(f"attn_logit_softcapping is {hf.attn_logit_softcapping}, expected None")
    return _read_gemma2(hf)


def _write_phi3(c: LlamaConfig) -> dict[str, Any]:
    """transformers takes the original length from a field beside rope_parameters."""
    _heads_fill(c)
    original = None if c.rope_scaling is None else c.rope_scaling.original_length
    return {**_write_mistral(c), **({} if original is None else {"original_max_position_embeddings": original})}


_ATTENTION_BIAS, _WINDOWS = ("qkv_bias", "out_bias"), ("sliding_window", "window_pattern")

_GEMMA = {"norms": "sandwich", "zero_centered_norms": True, "scaled_embeddings": True}
_GEMMA_FREE = (*_ATTENTION_BIAS, *_WINDOWS, "query_pre_attn_scalar", "attention_cap", "logit_cap")

FAMILIES: dict[str, Family] = {
    "llama": Family(
        config=transformers.LlamaConfig,
        architecture="LlamaForCausalLM",
        llava=("llava", "llava_llama"),
        free=(*_ATTENTION_BIAS, "mlp_bias"),
        read=_read_llama,
        write=_write_llama,
        gguf=True,
        pairs_together=True,
    ),
    "mistral": Family(
        config=transformers.MistralConfig,
        architecture="MistralForCausalLM",
        llava=("llava_mistral",),
        free=("sliding_window",),
        read=_read_mistral,
        write=_write_mistral,
    ),
    "qwen2": Family(
        config=transformers.Qwen2Config,
        architecture="Qwen2ForCausalLM",
        traits={"qkv_bias": True},
        free=_WINDOWS,
        read=_windows,
        write=_write_qwen2,
        lacks=("head_dim",),
        gguf=True,
    ),
    "qwen3": Family(
        config=transformers.Qwen3Config,
        architecture="Qwen3ForCausalLM",
        traits={"qk_norm": True},
        free=(*_ATTENTION_BIAS, *_WINDOWS),
        read=_read_qwen3,
        write=_write_qwen3,
    ),
    "olmo2": Family(
        config=transformers.Olmo2Config,
        architecture="Olmo2ForCausalLM",
        traits={"norms": "post", "qk_norm": True, "whole_qk_norm": True},
        free=_ATTENTION_BIAS,
        read=_attention_bias,
        write=_write_olmo2,
        lacks=("head_dim",),
    ),
    "gemma2": Family(
        config=transformers.Gemma2Config,
        architecture="Gemma2ForCausalLM",
        traits=_GEMMA,
        free=_GEMMA_FREE,
        read=_read_gemma2,
        write=_write_gemma2,
        # transformers reads hidden_activation; the second name of the window's size is in files of the first weeks.
        also=frozenset({"cache_implementation", "hidden_act", "sliding_window_size"}),
        activation="hidden_activation",
    ),
    "gemma3_text": Family(
        config=transformers.Gemma3TextConfig,
        architecture="Gemma3ForCausalLM",
        traits={**_GEMMA, "qk_norm": True},
        free=(*(name for name in _GEMMA_FREE if name != "attention_cap"), "local_rope_theta"),
        read=_read_gemma3,
        write=_write_gemma2,
        also=frozenset(
            {
                "cache_implementation",
                "rope_local_base_freq",
                "sliding_window_pattern",
                "_sliding_window_pattern",
            }
        ),
        activation="hidden_activation",
        local_rope=True,
    ),
    "phi3": Family(
        config=transformers.Phi3Config,
        architecture="Phi3ForCausalLM",
        free=("sliding_window", "rotary_fraction"),
        read=_read_mistral,
        write=_write_phi3,
        lacks=("head_dim",),
        # auto_map names code for versions of transformers without this class.
        also=frozenset({"auto_map", "original_max_position_embeddings", "partial_rotary_factor"}),
        fixed={
            "attention_bias": (False,),
            "full_attn_mod": (1,),
            "interpolate_factor": (1,),
            "lm_head_bias": (False,),
            "mlp_bias": (False,),
        },
        ropes=("default", "longrope"),
        fused=True,
    ),
}


def fields(name: str, config: LlamaConfig) -> dict[str, Any]:
    """For a config of transformers, what `Family.write` says. Raises ValueError for a shape that the family cannot
    have."""
    FAMILIES[name].check(config)
    return FAMILIES[name].write(config)


def of(config: LlamaConfig) -> str:
    """The first family that can have this shape. Raises UserError if none can."""
    reasons = []
    for name in FAMILIES:
        try:
            fields(name, config)
        except ValueError as error:
            reasons.append(f"of {name} {error}")
        else:
            return name
    raise UserError(f"no family has a decoder of this shape: {'; '.join(reasons)}")
