"""Tiny hub checkpoints with random weights, at hyperparameters that are nobody's default."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import parity_support
import tokenizers
import torch
import transformers

VOCAB = 67
IMAGE_ID = 61
LLM = {
    "vocab_size": VOCAB,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 3e-3,
    "max_position_embeddings": 96,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 321.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 3.0,
    "original_max_position_embeddings": 24,
}


def rope(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**LLM, head_dim=8, rope_parameters=rope(321.0)),
    "llama-biases-llama3": lambda: transformers.LlamaConfig(
        **LLM, head_dim=8, rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True
    ),
    "llama-tied-linear": lambda: transformers.LlamaConfig(
        **LLM, tie_word_embeddings=True, rope_parameters={"rope_type": "linear", "rope_theta": 99.0, "factor": 2.5}
    ),
    "mistral": lambda: transformers.MistralConfig(**LLM, head_dim=8, sliding_window=3, rope_parameters=rope(77.0)),
    "qwen2": lambda: transformers.Qwen2Config(**LLM, rope_parameters=rope(55.0)),
    "qwen2-window": lambda: transformers.Qwen2Config(
        **LLM, rope_parameters=rope(55.0), use_sliding_window=True, sliding_window=3, max_window_layers=0
    ),
    "qwen3": lambda: transformers.Qwen3Config(**LLM, head_dim=8, rope_parameters=rope(88.0)),
    "qwen3-biases-window": lambda: transformers.Qwen3Config(
        **LLM, head_dim=8, rope_parameters=rope(88.0), attention_bias=True, tie_word_embeddings=True,
        use_sliding_window=True, sliding_window=3, max_window_layers=0,
    ),
    "olmo2": lambda: transformers.Olmo2Config(**LLM, rope_parameters=rope(44.0)),
    "olmo2-biases-llama3": lambda: transformers.Olmo2Config(
        **LLM, rope_parameters=LLAMA3, attention_bias=True, tie_word_embeddings=True
    ),
    # Caps low enough to bend these scores and logits.
    "gemma2": lambda: transformers.Gemma2Config(
        **LLM, head_dim=8, rope_parameters=rope(66.0), sliding_window=3, query_pre_attn_scalar=5,
        attn_logit_softcapping=1.5, final_logit_softcapping=2.5,
    ),
    "gemma2-biases-linear": lambda: transformers.Gemma2Config(
        **LLM, head_dim=8, rope_parameters={"rope_type": "linear", "rope_theta": 99.0, "factor": 2.5}, sliding_window=4,
        layer_types=["full_attention", "full_attention", "sliding_attention"], attention_bias=True,
        tie_word_embeddings=False, attn_logit_softcapping=None, final_logit_softcapping=None,
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **LLM, head_dim=8, sliding_window=3, sliding_window_pattern=2, query_pre_attn_scalar=5,
        rope_parameters={
            "full_attention": {"rope_type": "linear", "rope_theta": 321.0, "factor": 2.5},
            "sliding_attention": rope(23.0),
        },
    ),
    "gemma3-local": lambda: transformers.Gemma3TextConfig(  # without a global block, as its first ones are
        **LLM, head_dim=8, sliding_window=4, rope_parameters={
            "full_attention": rope(321.0), "sliding_attention": rope(23.0),
        }, final_logit_softcapping=2.5,
    ),
    "phi3": lambda: transformers.Phi3Config(  # heads of four numbers, of which the first two turn
        **LLM, rope_parameters={
            "rope_type": "longrope", "rope_theta": 77.0, "partial_rotary_factor": 0.5, "short_factor": [1.25],
            "long_factor": [6.5],
        }, original_max_position_embeddings=8, tie_word_embeddings=True,
    ),
    "phi3-window": lambda: transformers.Phi3Config(
        **LLM, rope_parameters={**rope(77.0), "partial_rotary_factor": 0.5}, sliding_window=4
    ),
    "clip": lambda: transformers.CLIPConfig(
        text_config={
            **tower(24, 3), "vocab_size": VOCAB, "max_position_embeddings": 11, "eos_token_id": 2, "bos_token_id": 1,
        },
        vision_config={**tower(32, 4), "image_size": 28, "patch_size": 14},
        projection_dim=20,
    ),
    "llava": lambda: llava_config("default"),
    "llava-full": lambda: llava_config("full", layer=-1),
    "llava-gemma2": lambda: llava_config("default", llm=CONFIGS["gemma2"]()),
    "llava-phi3": lambda: llava_config("default", llm=CONFIGS["phi3-window"]()),
    "llava-layers": lambda: llava_config("default", layer=[-2, 1, -1]),
    "llava-siglip": lambda: llava_config("full", layer=-1, vision=siglip()),
    "llava-siglip-layers": lambda: llava_config("full", layer=[0, -2], vision=siglip(vision_use_head=False)),
    "siglip": lambda: transformers.SiglipConfig(
        text_config={
            **tower(32, 4), "vocab_size": VOCAB, "max_position_embeddings": 11, "eos_token_id": 2, "bos_token_id": 1,
        },
        vision_config=siglip().to_dict(),
    ),
}  # fmt: skip


def tower(hidden: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": 3,
        "intermediate_size": 40,
        "layer_norm_eps": 3e-3,
        "hidden_act": "quick_gelu",
    }


def siglip(**fields: Any) -> transformers.SiglipVisionConfig:
    """Of pictures with a remainder beyond the last whole patch."""
    shape = {**tower(32, 4), "hidden_act": "gelu_pytorch_tanh", "image_size": 32, "patch_size": 14}
    return transformers.SiglipVisionConfig(**{**shape, **fields})


def llava_config(select: str, layer: Any = -2, llm: Any = None, vision: Any = None) -> transformers.LlavaConfig:
    return transformers.LlavaConfig(
        vision_config=vision or transformers.CLIPVisionConfig(**tower(32, 4), image_size=28, patch_size=14),
        text_config=llm or CONFIGS["mistral"](),
        image_token_index=IMAGE_ID,
        vision_feature_layer=layer,
        vision_feature_select_strategy=select,
    )


CLASSES = {
    "llama": transformers.LlamaForCausalLM,
    "mistral": transformers.MistralForCausalLM,
    "qwen2": transformers.Qwen2ForCausalLM,
    "qwen3": transformers.Qwen3ForCausalLM,
    "olmo2": transformers.Olmo2ForCausalLM,
    "gemma2": transformers.Gemma2ForCausalLM,
    "gemma3_text": transformers.Gemma3ForCausalLM,
    "phi3": transformers.Phi3ForCausalLM,
    "clip": transformers.CLIPModel,
    "siglip": transformers.SiglipModel,
    "llava": transformers.LlavaForConditionalGeneration,
}


def model(name: str, seed: int = 5) -> Any:
    config = CONFIGS[name]()
    made = parity_support.randomize(CLASSES[config.model_type](config), seed)
    made.set_attn_implementation("eager")
    return made


def tokenizer(image: str = "<image>") -> transformers.PreTrainedTokenizerFast:
    """One token a word, `w3` to `w66`, and the special ones; image: what token IMAGE_ID is called."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2} | {f"w{i}": i for i in range(3, VOCAB) if i != IMAGE_ID}
    words[image] = IMAGE_ID
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w3"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    core.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def with_end(made: transformers.PreTrainedTokenizerFast, token: str, i: int) -> transformers.PreTrainedTokenizerFast:
    """Which puts a token after every text, as CLIP's does."""
    ends = tokenizers.processors.TemplateProcessing(single=f"<s> $A {token}", special_tokens=[("<s>", 1), (token, i)])
    made.backend_tokenizer.post_processor = ends
    return made


def save(made: Any, folder: Path, **how: Any) -> Path:
    made.save_pretrained(folder, **how)
    tokenizer().save_pretrained(folder)
    return folder


def state(made: Any) -> dict[str, torch.Tensor]:
    return {name: x.detach().clone().contiguous() for name, x in made.state_dict().items()}


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))


def token_rows(rng: np.random.Generator, lengths: list[int], width: int, left: bool) -> tuple[np.ndarray, np.ndarray]:
    """Random ids [B, T] and their mask, padded on one side."""
    ids, mask = np.zeros((2, len(lengths), width), np.int64)
    for i, n in enumerate(lengths):
        where = slice(width - n, width) if left else slice(0, n)
        ids[i, where], mask[i, where] = rng.integers(3, IMAGE_ID, n), 1
    return ids, mask
