"""LoRA weights (Hu et al., 2021) added into the model they are for: W + alpha / r * B A, tensor by tensor."""

import dataclasses
import math
import re
from functools import partial
from pathlib import Path

import numpy as np

from tga_jax.checkpoints import limits, rules
from tga_jax.checkpoints.folder import Tensor, tensors
from tga_jax.errors import UserError
from tga_jax.workdir import read_json

_NAME = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.(?:default\.)?weight")
# Fields of PEFT's LoraConfig. What is None, False or empty is left out by PEFT, too.
_USED = {"r", "lora_alpha", "use_rslora"}
_HARMLESS = {
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "task_type",  # whose it is
    "exclude_modules", "layers_pattern", "layers_to_transform", "target_modules",  # the tensors say where they belong
    "eva_config", "lora_dropout", "megatron_core", "qalora_group_size", "runtime_config",  # of training, or of a field
}  # fmt: skip
# The other ways to begin (pissa, olora, corda, loftq ...) take something away from the base model's weights.
_PLAIN = {"bias": ("none",), "init_lora_weights": (True, "gaussian", "eva", "orthogonal"), "peft_type": ("LORA",)}
_OTHERS = "non_lora_trainables.bin"  # LLaVA's projector, whole


def _added(base: Tensor, a: Tensor, b: Tensor, scale: float) -> np.ndarray:
    """float32, whatever the files have: it is rounded once, to the type that is asked for."""
    w, up, down = (tensor.read().astype(np.float32) for tensor in (base, b, a))
    return w + scale * (up @ down)


def merged(folder: Path, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The base model's tensors with the folder's LoRA weights added, and its other trained tensors in place.

    Raises UserError for a target that the base lacks, half a pair, shapes that do not fit, or a kind of LoRA that is
    not plain.
    """
    path = folder / "adapter_config.json"
    config = read_json(path, "the settings of LoRA weights", ("r", "lora_alpha"))
    for field, value in config.items():
        plain = _PLAIN.get(field, ())
        if value and field not in _USED | _HARMLESS and value not in plain:
            expected = f"one of {', '.join(map(repr, plain))}" if plain else "nothing: it is no plain LoRA then"
            raise UserError(f"{path}: {field} is {value!r}, expected {expected}")
    rank, alpha = config["r"], config["lora_alpha"]
    for field in ("r", "lora_alpha"):
        limits.number(str(path), field, config[field])
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors(folder).items():
        found = _NAME.fullmatch(name)
        if found is None:
            raise UserError(f"{tensor.file}: unexpected {name}, expected lora_A and lora_B weights")
        pairs.setdefault(found[1], {})[found[2]] = tensor
    result = dict(base)
    places = {rules.locate(name): name for name in base}
    for module, pair in pairs.items():
        name = places.get(rules.locate(f"{module}.weight"))
        if set(pair) != {"A", "B"} or name is None:
            raise UserError(f"{folder}: {module}: expected lora_A, lora_B and {module}.weight in the base model")
        a, b, w = pair["A"], pair["B"], base[name]
        if len(w.shape) != 2 or a.shape != (rank, w.shape[1]) or b.shape != (w.shape[0], rank):
            raise UserError(f"{folder}: {module}: A {a.shape} and B {b.shape} do not fit {w.shape} at rank {rank}")
        result[name] = dataclasses.replace(w, read=partial(_added, w, a, b, scale))
    if (folder / _OTHERS).exists():
        for name, tensor in tensors(folder / _OTHERS).items():
            name = name.removeprefix("base_model.model.")
            result[places.get(rules.locate(name), name)] = tensor
    return result
