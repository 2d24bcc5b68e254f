"""Vision towers in the hub's configs, and back: CLIP's, with its text tower, and SigLIP's."""

from typing import Any, Literal

import transformers

from tga_jax.checkpoints.config_fields import only
from tga_jax.errors import UserError
from tga_jax.models.clip import ClipConfig, TextConfig, VisionConfig
from tga_jax.models.layers import ACTIVATIONS
from tga_jax.models.llava import LlavaConfig


def _tower(where: str, hf: Any) -> dict[str, Any]:
    if hf.hidden_act not in ACTIVATIONS:
        raise UserError(f"{where}: hidden_act is {hf.hidden_act!r}, expected one of {', '.join(ACTIVATIONS)}")
    return {
        "hidden_size": hf.hidden_size,
        "num_layers": hf.num_hidden_layers,
        "num_heads": hf.num_attention_heads,
        "mlp_size": hf.intermediate_size,
        "activation": hf.hidden_act,
        "layer_norm_eps": hf.layer_norm_eps,
    }


# Vision towers by their model_type: what sets them apart, and what is so unless a processor's file says otherwise.
TOWERS: dict[str, dict[str, Any]] = {
    "clip_vision_model": {},
    "siglip_vision_model": {
        "has_cls": False, "pre_norm": False, "patch_bias": True, "pixel_mean": (0.5,) * 3, "pixel_std": (0.5,) * 3,
    },
}  # fmt: skip


def vision_config(where: str, hf: Any) -> VisionConfig:
    check_kind(where, hf)
    only(where, hf.num_channels, 3, "num_channels")
    for name in ("image_size", "patch_size"):
        if not isinstance(getattr(hf, name), int):
            raise UserError(f"{where}: {name} is {getattr(hf, name)!r}, expected one number, of a square")
    sizes = {"image_size": hf.image_size, "patch_size": hf.patch_size}
    return VisionConfig(**_tower(where, hf), **sizes, **TOWERS[hf.model_type])


def check_kind(where: str, hf: Any) -> None:
    if hf.model_type not in TOWERS:
        raise UserError(f"{where}: model_type is {hf.model_type!r}, expected one of {', '.join(TOWERS)}")


def image_mode(vision: VisionConfig) -> str:
    """How pictures are cut, unless a processor's file says otherwise."""
    return "crop" if vision.has_cls else "stretch"


def select_strategy(config: LlavaConfig) -> Literal["default", "full"]:
    """The hub's `vision_feature_select_strategy`; its "default" drops the first of a tower's states."""
    keeps_all = config.feature_select == "full" or not config.clip.vision.has_cls
    return "full" if keeps_all else "default"


def clip_config(where: str, hf: Any) -> ClipConfig:
    t = hf.text_config
    if hf.projection_dim is None:
        raise UserError(f"{where}: projection_dim is None, expected the width of what both towers give")
    # transformers takes 2, which early files hold by mistake, for "where the largest id stands".
    end = None if t.eos_token_id == 2 else t.eos_token_id
    if end is not None and not (isinstance(end, int) and 0 <= end < t.vocab_size):
        raise UserError(f"{where}: text_config.eos_token_id is {end!r}, expected an id below vocab_size {t.vocab_size}")
    text = TextConfig(
        **_tower(f"{where}: text_config", t),
        vocab_size=t.vocab_size,
        context_length=t.max_position_embeddings,
        eos_token_id=end,
    )
    return ClipConfig(vision_config(f"{where}: vision_config", hf.vision_config), text, hf.projection_dim)


def to_hub_tower(config: VisionConfig | TextConfig) -> dict[str, Any]:
    return {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_size,
        "hidden_act": config.activation,
        "layer_norm_eps": config.layer_norm_eps,
    }


def to_hub_vision(config: VisionConfig) -> Any:
    fields = {**to_hub_tower(config), "image_size": config.image_size, "patch_size": config.patch_size}
    kind = (config.has_cls, config.pre_norm, config.patch_bias)
    if kind == (True, True, False):
        return transformers.CLIPVisionConfig(**fields)
    if kind == (False, False, True):
        return transformers.SiglipVisionConfig(**fields, vision_use_head=False)
    raise UserError(f"export: {config}, expected a tower as CLIP's or as SigLIP's")
