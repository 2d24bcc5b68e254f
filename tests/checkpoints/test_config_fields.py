"""Every field of a config.json: read as transformers reads it, known to be without effect, or an error."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import hub_support
import jax
import numpy as np
import parity_support
import pytest
import torch
import transformers
from jax.sharding import AbstractMesh

import tga_jax
from tga_jax.checkpoints import config_fields, convert, families, hub_config
from tga_jax.errors import UserError
from tga_jax.models import sharding
from tga_jax.train import flops

SMALL = {
    "vocab_size": 67, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2,
}  # fmt: skip
# What transformers 4.16 wrote of each part of OpenAI's CLIP, beside its sizes.
DUMP = {
    "_name_or_path": "", "add_cross_attention": False, "architectures": None, "attention_dropout": 0.0,
    "bad_words_ids": None, "bos_token_id": None, "chunk_size_feed_forward": 0, "cross_attention_hidden_size": None,
    "decoder_start_token_id": None, "diversity_penalty": 0.0, "do_sample": False, "dropout": 0.0,
    "early_stopping": False, "encoder_no_repeat_ngram_size": 0, "eos_token_id": None, "finetuning_task": None,
    "forced_bos_token_id": None, "forced_eos_token_id": None, "hidden_act": "quick_gelu", "id2label": {"0": "LABEL_0"},
    "initializer_factor": 1.0, "initializer_range": 0.02, "is_decoder": False, "is_encoder_decoder": False,
    "label2id": {"LABEL_0": 0}, "layer_norm_eps": 1e-05, "length_penalty": 1.0, "max_length": 20, "min_length": 0,
    "no_repeat_ngram_size": 0, "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1,
    "output_attentions": False, "output_hidden_states": False, "output_scores": False, "pad_token_id": None,
    "prefix": None, "problem_type": None, "projection_dim": 512, "pruned_heads": {}, "remove_invalid_values": False,
    "repetition_penalty": 1.0, "return_dict": True, "return_dict_in_generate": False, "sep_token_id": None,
    "task_specific_params": None, "temperature": 1.0, "tie_encoder_decoder": False, "tie_word_embeddings": True,
    "tokenizer_class": None, "top_k": 50, "top_p": 1.0, "torch_dtype": None, "torchscript": False,
    "transformers_version": "4.16.0.dev0", "typical_p": 1.0, "use_bfloat16": False,
}  # fmt: skip
PHI_4_LONG = [
    1, 1.118320672, 1.250641126, 1.398617824, 1.564103225, 1.74916897, 1.956131817, 2.187582649, 2.446418898,
    2.735880826, 3.059592084, 3.421605075, 3.826451687, 4.279200023, 4.785517845, 5.351743533, 5.984965424,
    6.693110555, 7.485043894, 8.370679318, 9.36110372, 10.4687158, 11.70738129, 13.09260651, 14.64173252, 16.37415215,
    18.31155283, 20.47818807, 22.90118105, 25.61086418, 28.64115884, 32.03, 32.1, 32.13, 32.23, 32.6, 32.61, 32.64,
    32.66, 32.7, 32.71, 32.93, 32.97, 33.28, 33.49, 33.5, 44.16, 47.77,
]  # fmt: skip
PUBLIC: dict[str, dict[str, Any]] = {  # as their files have been since they were published
    "llava-hf/llava-1.5-7b-hf": {
        "architectures": ["LlavaForConditionalGeneration"], "ignore_index": -100, "image_token_index": 32000,
        "model_type": "llava", "pad_token_id": 32001, "projector_hidden_act": "gelu",
        "text_config": {
            "_name_or_path": "lmsys/vicuna-7b-v1.5", "architectures": ["LlamaForCausalLM"], "model_type": "llama",
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "torch_dtype": "float16", "vocab_size": 32064,
        },
        "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.36.0.dev0",
        "vision_config": {
            "hidden_size": 1024, "image_size": 336, "intermediate_size": 4096, "model_type": "clip_vision_model",
            "num_attention_heads": 16, "num_hidden_layers": 24, "patch_size": 14, "projection_dim": 768,
            "vocab_size": 32000,
        },
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default", "vocab_size": 32064,
    },
    "openai/clip-vit-base-patch32": {
        "_name_or_path": "openai/clip-vit-base-patch32", "architectures": ["CLIPModel"], "initializer_factor": 1.0,
        "logit_scale_init_value": 2.6592, "model_type": "clip", "projection_dim": 512,
        "text_config": {
            **DUMP, "bos_token_id": 0, "eos_token_id": 2, "hidden_size": 512, "intermediate_size": 2048,
            "max_position_embeddings": 77, "model_type": "clip_text_model", "num_attention_heads": 8,
            "num_hidden_layers": 12, "pad_token_id": 1, "vocab_size": 49408,
        },
        "text_config_dict": None, "transformers_version": None,
        "vision_config": {
            **DUMP, "hidden_size": 768, "image_size": 224, "intermediate_size": 3072, "model_type": "clip_vision_model",
            "num_attention_heads": 12, "num_hidden_layers": 12, "patch_size": 32,
        },
        "vision_config_dict": None,
    },
    "mistralai/Mistral-7B-Instruct-v0.2": {
        "architectures": ["MistralForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": None,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.36.0", "use_cache": True,
        "vocab_size": 32000,
    },
    "meta-llama/Llama-3.2-1B-Instruct": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu",
        "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "mlp_bias": False, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
        "num_key_value_heads": 8, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
        "transformers_version": "4.45.0.dev0", "vocab_size": 128256,
    },
    "Qwen/Qwen2.5-0.5B-Instruct": {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
        "hidden_act": "silu", "hidden_size": 896, "initializer_range": 0.02, "intermediate_size": 4864,
        "max_position_embeddings": 32768, "max_window_layers": 21, "model_type": "qwen2", "num_attention_heads": 14,
        "num_hidden_layers": 24, "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True,
        "transformers_version": "4.43.1", "use_sliding_window": False, "vocab_size": 151936,
    },
    "HuggingFaceTB/SmolLM2-135M-Instruct": {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 576, "initializer_range": 0.041666666666666664,
        "intermediate_size": 1536, "is_llama_config": True, "max_position_embeddings": 8192, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
        "pad_token_id": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None,
        "rope_theta": 100000, "tie_word_embeddings": True, "torch_dtype": "bfloat16", "transformers_version": "4.42.3",
        "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}, "use_cache": True, "vocab_size": 49152,
    },
    "allenai/OLMo-2-1124-13B-Instruct": {
        "_name_or_path": "/weka/oe-adapt-default/olmo2/checkpoints/step_180/", "architectures": ["Olmo2ForCausalLM"],
        "attention_bias": False, "attention_dropout": 0.0, "eos_token_id": 100257, "hidden_act": "silu",
        "hidden_size": 5120, "initializer_range": 0.02, "intermediate_size": 13824, "max_position_embeddings": 4096,
        "model_type": "olmo2", "num_attention_heads": 40, "num_hidden_layers": 40, "num_key_value_heads": 40,
        "pad_token_id": 100277, "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 500000,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.47.0.dev0",
        "use_cache": False, "vocab_size": 100352,
    },
    "google/gemma-2-2b-it": {
        "architectures": ["Gemma2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "attn_logit_softcapping": 50.0, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 107],
        "final_logit_softcapping": 30.0, "head_dim": 256, "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 2304, "initializer_range": 0.02,
        "intermediate_size": 9216, "max_position_embeddings": 8192, "model_type": "gemma2", "num_attention_heads": 8,
        "num_hidden_layers": 26, "num_key_value_heads": 4, "pad_token_id": 0, "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "sliding_window": 4096, "torch_dtype": "bfloat16",
        "transformers_version": "4.42.4", "use_cache": True, "vocab_size": 256000,
    },
    "google/gemma-3-1b-it": {
        "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
        "attn_logit_softcapping": None, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 106],
        "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152, "initializer_range": 0.02, "intermediate_size": 6912, "max_position_embeddings": 32768,
        "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
        "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000,
        "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6,
        "torch_dtype": "bfloat16", "transformers_version": "4.52.4", "use_cache": True, "vocab_size": 262144,
    },
    "microsoft/Phi-4-mini-instruct": {
        "_name_or_path": "Phi-4-mini-instruct", "architectures": ["Phi3ForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.0, "auto_map": {
            "AutoConfig": "configuration_phi3.Phi3Config", "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
            "AutoTokenizer": "Xenova/gpt-4o",
        },
        "bos_token_id": 199999, "embd_pdrop": 0.0, "eos_token_id": 199999, "full_attn_mod": 1, "hidden_act": "silu",
        "hidden_size": 3072, "initializer_range": 0.02, "intermediate_size": 8192, "interpolate_factor": 1,
        "lm_head_bias": False, "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "phi3",
        "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "original_max_position_embeddings": 4096, "pad_token_id": 199999, "partial_rotary_factor": 0.75,
        "resid_pdrop": 0.0, "rms_norm_eps": 1e-05,
        "rope_scaling": {"long_factor": PHI_4_LONG, "short_factor": [1.0] * 48, "type": "longrope"},
        "rope_theta": 10000.0, "sliding_window": 262144, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0", "use_cache": True, "vocab_size": 200064,
    },
    "liuhaotian/llava-v1.5-7b": {
        "_name_or_path": "llava-v1.5-7b", "architectures": ["LlavaLlamaForCausalLM"], "bos_token_id": 1,
        "eos_token_id": 2, "freeze_mm_mlp_adapter": False, "freeze_mm_vision_resampler": False, "hidden_act": "silu",
        "hidden_size": 4096, "image_aspect_ratio": "pad", "initializer_range": 0.02, "intermediate_size": 11008,
        "max_length": 4096, "max_position_embeddings": 4096, "mm_hidden_size": 1024, "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None, "mm_use_im_patch_token": False, "mm_use_im_start_end": False,
        "mm_vision_select_feature": "patch", "mm_vision_select_layer": -2,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336", "model_type": "llava", "num_attention_heads": 32,
        "num_hidden_layers": 32, "num_key_value_heads": 32, "pad_token_id": 0, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "float16",
        "transformers_version": "4.31.0", "tune_mm_mlp_adapter": False, "tune_mm_vision_resampler": False,
        "unfreeze_mm_vision_tower": False, "use_cache": True, "use_mm_proj": True, "vocab_size": 32000,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_public_configs_are_read_as_transformers_reads_them(name):
    raw = copy.deepcopy(PUBLIC[name])
    found = hub_config.describe("config.json", raw)
    assert raw == PUBLIC[name]  # which transformers writes to
    own = {**raw, "model_type": "llama"} if name.startswith("liuhaotian") else raw
    theirs = transformers.CONFIG_MAPPING[own["model_type"]].from_dict(own)
    if found.llm is not None:
        text = theirs.get_text_config()
        assert found.llm.vocab_size == text.vocab_size
        assert found.llm.num_kv_heads == text.num_key_value_heads
        assert found.llm.head_dim == getattr(text, "head_dim", text.hidden_size // text.num_attention_heads)
        rope = text.rope_parameters
        local = rope.get("sliding_attention", {})
        assert found.llm.rope_theta == rope.get("full_attention", rope)["rope_theta"]
        assert found.llm.local_rope_theta == local.get("rope_theta")
        assert found.llm.rms_norm_eps == text.rms_norm_eps
        window = getattr(text, "sliding_window", None)
        kinds = getattr(text, "layer_types", None) or ["sliding_attention" if window else ""] * text.num_hidden_layers
        assert found.llm.windowed == tuple(kind == "sliding_attention" for kind in kinds)
        assert found.llm.sliding_window == (window if any(found.llm.windowed) else None)
        assert found.llm.tie_embeddings == theirs.tie_word_embeddings
    if found.kind == "clip":
        # 2 is what early files have by mistake, for the largest id of a text.
        assert found.config.text.eos_token_id == {2: None, 49407: 49407}[theirs.text_config.eos_token_id]
        assert found.config.vision.mlp_size == theirs.vision_config.intermediate_size
    if name.startswith("llava-hf"):
        assert (found.image_token_id, found.llm.vocab_size) == (32000, 32064)
    if name.startswith("liuhaotian"):
        assert (found.image_token_id, found.image_mode) == (32000, "pad")


LLMS = [name for name, raw in PUBLIC.items() if raw["model_type"] in families.FAMILIES]


@pytest.mark.parametrize("name", LLMS)
def test_public_models_have_the_parameters_of_transformers(name):
    """All of them, and those of the matrices that FLOPs are counted of."""
    found = hub_config.describe("config.json", copy.deepcopy(PUBLIC[name]))
    config = transformers.CONFIG_MAPPING[PUBLIC[name]["model_type"]].from_dict(copy.deepcopy(PUBLIC[name]))
    with torch.device("meta"):
        theirs = transformers.AutoModelForCausalLM.from_config(config)
    assert sum(x.size for x in jax.tree.leaves(convert.shapes(found))) == theirs.num_parameters()
    matrices = sum(x.numel() for x in theirs.model.layers.parameters() if x.ndim == 2)
    assert found.llm.num_layers * sum(i * o for i, o in flops.matrices(found.llm).values()) == matrices
    sharding.shardings(convert.shapes(found), AbstractMesh((1, 4, 2), sharding.AXES))  # raises without a rule


CLASSES = (
    *(row.config for row in families.FAMILIES.values()), transformers.CLIPTextConfig, transformers.CLIPVisionConfig,
    transformers.CLIPConfig, transformers.LlavaConfig,
)  # fmt: skip


@pytest.mark.parametrize("cls", CLASSES)
def test_every_field_of_transformers_classes_is_known(cls):
    """So that one that a later version adds is noticed."""
    used, harmless, fixed = config_fields.USED, config_fields.HARMLESS, config_fields.FIXED.keys()
    assert not used & harmless
    assert not (used | harmless) & fixed
    row = next((row for row in families.FAMILIES.values() if row.config is cls), None)
    own = row.also | row.fixed.keys() if row else set()
    assert {field.name for field in dataclasses.fields(cls)} <= used | harmless | fixed | own


REFUSED: list[tuple[str, dict[str, Any]]] = [
    *(("rope_type is", {"rope_scaling": r}) for r in (
        {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [1.0, 1.0]},
        {"type": "mrope", "mrope_section": [16, 24, 24]},
        {"type": "su", "factor": 2.0},
        {"rope_type": "proportional"},
        {"rope_type": 3},
    )),
    ("mrope_section", {"rope_scaling": {"rope_type": "default", "mrope_section": [1, 1, 1]}}),
    ("factor", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "factor": 2.0}}),
    ("attention_factor", {"rope_scaling": {"rope_type": "linear", "factor": 2.0, "attention_factor": 2.0}}),
    ("full_attention", {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
    ("partial_rotary_factor", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}),
    ("partial_rotary_factor", {"partial_rotary_factor": 0.5}),
    ("factor", {"rope_scaling": {"type": "linear"}}),
    ("factor", {"rope_scaling": {"type": "linear", "factor": None}}),
    ("low_freq_factor", {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}),
    ("original_max_position_embeddings", {"rope_scaling": {
        "rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 10**12,
    }}),
    ("rope_parameters", {"rope_scaling": "linear"}),
    ("rope_theta", {"rope_theta": None}),
    ("rope_theta", {"rope_theta": 0}),
    ("num_key_value_heads", {"num_key_value_heads": 5}),
    ("num_attention_heads", {"num_attention_heads": 0}),
    ("sliding_window", {"sliding_window": 10**12}),
    ("vocab_size", {"vocab_size": 10**12}),
    ("hidden_size", {"hidden_size": -4}),
    ("num_hidden_layers", {"num_hidden_layers": "2"}),
    ("rms_norm_eps", {"rms_norm_eps": None}),
    ("hidden_act", {"hidden_act": "gelu_new"}),
    ("tie_word_embeddings", {"tie_word_embeddings": None}),
    ("is_encoder_decoder", {"is_encoder_decoder": True}),
    ("pruned_heads", {"pruned_heads": {"0": [1]}}),
    *((name, {name: value}) for name, value in {
        "quantization_config": {"bits": 4}, "auto_map": {"AutoModelForCausalLM": "x.Y"}, "attn_logit_softcapping": 30.0,
        "per_layer_config": {"0": {"head_dim": 2}}, "tie_last_hidden_states": True, "qk_norm": True,
        "original_max_position_embeddings": 7, "residual_multiplier": 2.0,
    }.items()),
]  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "olmo2"])
@pytest.mark.parametrize(("name", "fields"), REFUSED)
def test_what_is_not_computed_is_refused_by_its_field(family, name, fields):
    check_refused(family, name, fields)


_BOTH = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
OF_FAMILIES: list[tuple[str, str, dict[str, Any]]] = [
    *((family, name, fields) for family in ("gemma2", "gemma3_text") for name, fields in (
        ("use_bidirectional_attention is True", {"use_bidirectional_attention": True}),
        ("hidden_activation is 'gelu_new'", {"hidden_activation": "gelu_new"}),
        ("chunked_attention", {"layer_types": ["chunked_attention", "full_attention"]}),
        ("layer_types has sliding_attention", {"sliding_window": None}),
        ("partial_rotary_factor", {"partial_rotary_factor": 0.5}),
        ("rope_type is 'yarn'", {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}),
        ("qk_norm", {"qk_norm": True}),
        ("quantization_config", {"quantization_config": {"bits": 4}}),
    )),
    ("gemma2", "rope_local_base_freq", {"rope_local_base_freq": 1e4}),
    ("gemma3_text", "attn_logit_softcapping is 30.0", {"attn_logit_softcapping": 30.0}),
    ("gemma3_text", "sliding_attention is scaled", {"rope_parameters": {
        **_BOTH, "sliding_attention": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
    }}),
    ("gemma3_text", "unknown field rope_theta", {"rope_parameters": {**_BOTH, "rope_theta": 1e4}}),
    *(("phi3", name, {name: value}) for name, value in {
        "attention_bias": True, "mlp_bias": True, "lm_head_bias": True, "full_attn_mod": 2, "interpolate_factor": 4,
        "head_dim": 8, "quantization_config": {"bits": 4},
    }.items()),
    *(("phi3", name, {"rope_scaling": {"type": "longrope", **fields}}) for name, fields in {
        "short_factor": {"short_factor": [1.0], "long_factor": [2.0, 2.0]},
        "long_factor": {"short_factor": [1.0, 1.0], "long_factor": ["2.0", 2.0]},
        "long_factor is 0": {"short_factor": [1.0, 1.0], "long_factor": [2.0, 0]},
        "attention_factor is -1": {"short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0], "attention_factor": -1},
        "unknown field mscale": {"short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0], "mscale": 2.0},
    }.items()),
    ("phi3", "original_max_position_embeddings is 1", {
        "rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 2.0]},
        "original_max_position_embeddings": 1,
    }),
    ("phi3", "linear", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    ("phi3", "partial_rotary_factor", {"partial_rotary_factor": 0.75}),  # three of a head's four numbers
]  # fmt: skip


@pytest.mark.parametrize(("family", "name", "fields"), OF_FAMILIES)
def test_what_a_family_of_its_own_does_not_compute_is_refused(family, name, fields):
    check_refused(family, name, fields)


def check_refused(family: str, name: str, fields: dict[str, Any]) -> None:
    inside = {"model_type": "llava", "text_config": {"model_type": family, **SMALL, **fields}}
    for raw in ({"model_type": family, **SMALL, **fields}, inside):
        with pytest.raises(UserError) as error:
            hub_config.describe("config.json", copy.deepcopy(raw))
        said = str(error.value)
        assert said.startswith("config.json: ")
        assert name in said
        assert "__init__" not in said
        assert "\n" not in said


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"vision_feature_layer": [-2, -30]}, r"vision_feature_layer is \[-2, -30\], expected a number from -25 to 24"),
        ({"vision_feature_layer": []}, r"vision_feature_layer is \[\], expected a number from -25 to 24, or several"),
        ({"vision_feature_layer": -30}, "vision_feature_layer is -30, expected a number from -25 to 24"),
        ({"vision_feature_select_strategy": "cls"}, "vision_feature_select_strategy"),
        ({"projector_hidden_act": "relu"}, "projector_hidden_act is 'relu', expected 'gelu'"),
        ({"image_grid_pinpoints": [[336, 672]]}, "unknown field image_grid_pinpoints"),
        # The first patch would be dropped for a CLS token.
        ({"vision_config": {"model_type": "siglip_vision_model"}}, "vision_feature_select_strategy is 'default'"),
        ({"vision_config": {"model_type": "siglip2_vision_model"}}, "siglip2_vision_model"),
        ({"vision_config": {"model_type": "siglip_vision_model", "patch_size": [14, 16]}}, "patch_size"),
        ({"vision_config": {"hidden_act": "relu"}}, "vision_config: hidden_act is 'relu', expected one of gelu, "),
        ({"vision_config": {"num_attention_heads": 5}}, r"hidden size \(1024\) is not a multiple"),
        ({"vision_config": {"use_rope": True}}, "vision_config: unknown field use_rope"),
        (
            {"vision_config": {"image_size": 0}},
            "vision_config: image_size is 0, expected a whole number from 1 to 16384",
        ),
    ],
)
def test_towers_and_whole_llavas(fields, said):
    raw = copy.deepcopy(PUBLIC["llava-hf/llava-1.5-7b-hf"])
    vision = fields.pop("vision_config", {})
    raw = {**raw, **fields, "vision_config": {**raw["vision_config"], **vision}}
    with pytest.raises(UserError, match=f"^config.json: .*{said}") as error:
        hub_config.describe("config.json", raw)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "llava_next_video"}, "model_type 'llava_next_video', expected one of"),
        ({"model_type": "qwen2_5_vl"}, "model_type 'qwen2_5_vl', expected one of"),
        ({"model_type": "mllama"}, "model_type 'mllama', expected one of"),
    ],
)
def test_llavas_that_read_pictures_in_parts_are_refused(fields, said):
    """In parts of other kinds than the tiles of LLaVA-NeXT and LLaVA-OneVision."""
    with pytest.raises(UserError, match=f"^config.json: {said}"):
        hub_config.describe("config.json", {**PUBLIC["llava-hf/llava-1.5-7b-hf"], **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio 'anyres', expected pad or square"),  # v1.6
        ({"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type is 'spatial_unpad', expected"),  # v1.6
        ({"mm_projector_type": "identity"}, "mm_projector_type 'identity', expected linear or mlp2x_gelu"),
        ({"mm_resampler_type": "qformer"}, "mm_resampler_type is 'qformer', expected None"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end is True, expected False"),
        (
            {"mm_vision_tower": "google/siglip-so400m"},
            "mm_vision_tower 'google/siglip-so400m' is none of openai's CLIP",
        ),
        ({"mm_hidden_size": 768}, "mm_hidden_size is 768, expected 1024"),
    ],
)
def test_llavas_of_the_authors_that_are_computed_otherwise(fields, said):
    with pytest.raises(UserError, match=f"^config.json: {said}"):
        hub_config.describe("config.json", {**PUBLIC["liuhaotian/llava-v1.5-7b"], **fields})


def test_towers_without_a_common_width():
    raw = {**PUBLIC["openai/clip-vit-base-patch32"], "projection_dim": None}
    with pytest.raises(UserError, match=r"^config.json: projection_dim is None, expected the width"):
        hub_config.describe("config.json", raw)


@pytest.mark.parametrize("end", [10**12, 49408, -1])
def test_an_end_token_that_clips_table_does_not_hold(end):
    raw = {**PUBLIC["openai/clip-vit-base-patch32"]}
    raw["text_config"] = {**raw["text_config"], "eos_token_id": end}
    with pytest.raises(UserError, match=rf"^config.json: text_config.eos_token_id is {end}, expected an id below"):
        hub_config.describe("config.json", raw)


def test_a_window_without_a_size():
    raw = {"model_type": "qwen2", **SMALL, "layer_types": ["sliding_attention"] * 2}
    with pytest.raises(UserError, match=r"^config.json: layer_types has sliding_attention, expected use_"):
        hub_config.describe("config.json", raw)


ABSENT = (
    "num_key_value_heads", "rms_norm_eps", "rope_parameters", "hidden_act", "head_dim", "tie_word_embeddings",
    "attention_bias", "mlp_bias", "sliding_window", "use_sliding_window", "max_window_layers", "layer_types",
    "max_position_embeddings", "hidden_activation", "query_pre_attn_scalar", "attn_logit_softcapping",
    "final_logit_softcapping", "original_max_position_embeddings",
)  # fmt: skip


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "olmo2", "gemma2", "gemma3_text", "phi3"])
def test_what_a_file_leaves_out_is_transformers_default(tmp_path, family):
    """With 32 heads, so that Mistral's 8 and Qwen2's 32 key and value heads fit."""
    cls = transformers.CONFIG_MAPPING[family]
    sizes = {"vocab_size": 67, "hidden_size": 64, "intermediate_size": 40, "num_hidden_layers": 2, "pad_token_id": 0}
    theirs = parity_support.randomize(
        transformers.AutoModelForCausalLM.from_config(cls(**sizes, num_attention_heads=32)), 3
    ).eval()
    folder = hub_support.save(theirs, Path(tmp_path))
    path = folder / "config.json"
    raw = {name: value for name, value in json.loads(path.read_text()).items() if name not in ABSENT}
    path.write_text(json.dumps(raw))
    ours = tga_jax.load(folder, "float32")
    assert ours.config.num_kv_heads == {"mistral": 8, "gemma2": 4, "gemma3_text": 4}.get(family, 32)
    again = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    ids = [[1, 5, 6, 7, 8, 9]]
    with torch.no_grad(), jax.default_matmul_precision("highest"):
        found = ours.forward(ids).logits
        np.testing.assert_allclose(found, again(input_ids=torch.tensor(ids)).logits, rtol=1e-4, atol=1e-5)
