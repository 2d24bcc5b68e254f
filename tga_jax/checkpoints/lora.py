"""LoRA weights (Hu et al., 2021) added into the model they are for: W + alpha / r * B A, tensor by tensor."""

import dataclasses
import math
import re
from functools import partial
from pathlib import Path

import numpy as np

from tga_jax.checkpoints import rules
from tga_jax.checkpoints.folder import Tensor, tensors
from tga_jax.errors import UserError
from tga_jax.workdir import read_json

_NAME = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])\.(?:default\.)?weight")
_OTHERS = "non_lora_trainables.bin"  # LLaVA's projector, whole


def _added(base: Tensor, a: Tensor, b: Tensor, scale: float) -> np.ndarray:
    x = base.read()
    change = b.read().astype(np.float32) @ a.read().astype(np.float32)
    return (x.astype(np.float32) + scale * change).astype(x.dtype)


def merged(folder: Path, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The base model's tensors with the folder's LoRA weights added, and its other trained tensors in place.

    Raises UserError for a target that the base lacks, half a pair, shapes that do not fit, or a kind of LoRA that is
    not plain.
    """
    path = folder / "adapter_config.json"
    config = read_json(path, "the settings of LoRA weights", ("r", "lora_alpha"))
    for field in ("use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if config.get(field):
            raise UserError(f"{path}: {field} is {config[field]!r}, expected plain LoRA")
    rank, alpha = config["r"], config["lora_alpha"]
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
        if a.shape != (rank, w.shape[1]) or b.shape != (w.shape[0], rank):
            raise UserError(f"{folder}: {module}: A {a.shape} and B {b.shape} do not fit {w.shape} at rank {rank}")
        result[name] = dataclasses.replace(w, read=partial(_added, w, a, b, scale))
    if (folder / _OTHERS).exists():
        for name, tensor in tensors(folder / _OTHERS).items():
            name = name.removeprefix("base_model.model.")
            result[places.get(rules.locate(name), name)] = tensor
    return result
