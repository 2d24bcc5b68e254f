"""Random transformers models and their weights in this package's layout, for the parity tests.

Torch keeps a linear layer's weight as [out, in] and one entry per layer; here kernels are [in, out], heads are axes of
their own, and the blocks of a tower are stacked along axis 0.
"""

import numpy as np
import torch

from tga_jax.models.clip import ClipConfig, TextConfig, VisionConfig
from tga_jax.models.llama import LlamaConfig


def randomize(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Draws every parameter, biases and norms too, so that no term of the forward pass is trivially one or zero."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            x = rng.standard_normal(tuple(p.shape))
            if name.endswith("logit_scale"):
                x = np.array(1.3)
            elif "norm" in name and name.endswith("weight"):
                x = 1 + 0.3 * x
            elif name.endswith("bias"):
                x = 0.3 * x
            elif "embed" in name and "patch" not in name:
                x = 0.7 * x
            else:
                x = x * np.prod(p.shape[1:]) ** -0.5
            p.copy_(torch.tensor(x, dtype=p.dtype))
    return model.eval()


class Weights:
    """A state dict below a prefix; `used` collects what was read, to show that nothing was left behind."""

    def __init__(self, state: dict, prefix: str = "", used: set | None = None):
        self.state, self.prefix, self.used = state, prefix, set() if used is None else used

    def at(self, prefix: str) -> "Weights":
        return Weights(self.state, self.prefix + prefix, self.used)

    def get(self, name: str) -> np.ndarray:
        self.used.add(self.prefix + name)
        return self.state[self.prefix + name].detach().numpy()

    def linear(self, name: str, *shape: int, bias: bool = True) -> dict:
        """The layer `name` with its kernel reshaped to `shape`; the bias takes the last axes of it that fit."""
        kernel = self.get(f"{name}.weight").T
        layer = {"kernel": kernel.reshape(shape or kernel.shape)}
        if bias:
            flat = self.get(f"{name}.bias")
            cut = next(i for i in range(len(shape) + 1) if np.prod(shape[i:]) == flat.size) if shape else 0
            layer["bias"] = flat.reshape(shape[cut:] or flat.shape)
        return layer

    def norm(self, name: str) -> dict:
        return {"scale": self.get(f"{name}.weight"), "bias": self.get(f"{name}.bias")}


def stack(layers: list[dict]) -> dict:
    first = layers[0]
    return {
        k: stack([x[k] for x in layers]) if isinstance(first[k], dict) else np.stack([x[k] for x in layers])
        for k in first
    }


def _tower_config(hf) -> dict:
    return {
        "hidden_size": hf.hidden_size,
        "num_layers": hf.num_hidden_layers,
        "num_heads": hf.num_attention_heads,
        "mlp_size": hf.intermediate_size,
        "activation": hf.hidden_act,
        "layer_norm_eps": hf.layer_norm_eps,
    }


def vision_config(hf) -> VisionConfig:
    """hf: transformers.CLIPVisionConfig."""
    return VisionConfig(**_tower_config(hf), image_size=hf.image_size, patch_size=hf.patch_size)


def clip_config(hf) -> ClipConfig:
    """hf: transformers.CLIPConfig."""
    t = hf.text_config
    text = TextConfig(
        **_tower_config(t),
        vocab_size=t.vocab_size,
        context_length=t.max_position_embeddings,
        eos_token_id=t.eos_token_id,
    )
    return ClipConfig(vision_config(hf.vision_config), text, hf.projection_dim)


def _encoder_blocks(w: Weights, config) -> dict:
    d, n = config.hidden_size, config.num_heads
    blocks = []
    for i in range(config.num_layers):
        b = w.at(f"encoder.layers.{i}.")
        heads = {name: b.linear(f"self_attn.{name[0]}_proj", d, n, d // n) for name in ("query", "key", "value")}
        out = b.linear("self_attn.out_proj", n, d // n, d)
        mlp = {"up": b.linear("mlp.fc1"), "down": b.linear("mlp.fc2")}
        blocks.append(
            {"attention_norm": b.norm("layer_norm1"), "mlp_norm": b.norm("layer_norm2"), **heads, "out": out, **mlp}
        )
    return stack(blocks)


def vision_params(w: Weights, config: VisionConfig) -> dict:
    """w: a CLIPVisionModel."""
    return {
        "patch": {"kernel": w.get("embeddings.patch_embedding.weight").transpose(2, 3, 1, 0)},
        "cls": w.get("embeddings.class_embedding"),
        "positions": w.get("embeddings.position_embedding.weight"),
        "pre_norm": w.norm("pre_layrnorm"),
        "blocks": _encoder_blocks(w, config),
        "post_norm": w.norm("post_layernorm"),
    }


def clip_params(w: Weights, config: ClipConfig) -> dict:
    """w: a CLIPModel."""
    t = w.at("text_model.")
    return {
        "vision": vision_params(w.at("vision_model."), config.vision),
        "text": {
            "embed": {"embedding": t.get("embeddings.token_embedding.weight")},
            "positions": t.get("embeddings.position_embedding.weight"),
            "blocks": _encoder_blocks(t, config.text),
            "final_norm": t.norm("final_layer_norm"),
        },
        "vision_projection": w.linear("visual_projection", bias=False),
        "text_projection": w.linear("text_projection", bias=False),
        "logit_scale": w.get("logit_scale"),
    }


def llama_config(hf) -> LlamaConfig:
    """hf: transformers.LlamaConfig or MistralConfig."""
    return LlamaConfig(
        vocab_size=hf.vocab_size,
        hidden_size=hf.hidden_size,
        num_layers=hf.num_hidden_layers,
        num_heads=hf.num_attention_heads,
        num_kv_heads=hf.num_key_value_heads,
        head_dim=hf.head_dim,
        mlp_size=hf.intermediate_size,
        rope_theta=hf.rope_parameters["rope_theta"],
        rms_norm_eps=hf.rms_norm_eps,
        sliding_window=getattr(hf, "sliding_window", None),
        tie_embeddings=hf.tie_word_embeddings,
    )


def llama_params(model: Weights, head: Weights, config: LlamaConfig) -> dict:
    """model: a LlamaModel or MistralModel; head: the level of the state dict that holds lm_head."""
    d, k, h = config.hidden_size, config.num_kv_heads, config.head_dim
    g = config.num_heads // k
    blocks = []
    for i in range(config.num_layers):
        b = model.at(f"layers.{i}.")
        attention, mlp = b.at("self_attn."), b.at("mlp.")
        blocks.append(
            {
                "attention_norm": {"scale": b.get("input_layernorm.weight")},
                "query": attention.linear("q_proj", d, k, g, h, bias=False),
                "key": attention.linear("k_proj", d, k, h, bias=False),
                "value": attention.linear("v_proj", d, k, h, bias=False),
                "out": attention.linear("o_proj", k, g, h, d, bias=False),
                "mlp_norm": {"scale": b.get("post_attention_layernorm.weight")},
                **{name: mlp.linear(f"{name}_proj", bias=False) for name in ("gate", "up", "down")},
            }
        )
    params = {
        "embed": {"embedding": model.get("embed_tokens.weight")},
        "blocks": stack(blocks),
        "final_norm": {"scale": model.get("norm.weight")},
    }
    kernel = head.linear("lm_head", bias=False)
    return params if config.tie_embeddings else {**params, "lm_head": kernel}
