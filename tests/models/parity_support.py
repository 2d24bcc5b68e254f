"""Random transformers models, and what the package's own converter makes of them, for the parity tests."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tga_jax.checkpoints import convert, hub_config
from tga_jax.checkpoints.folder import Tensor


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


def converted(model: Any) -> tuple[Any, dict]:
    """(configuration, parameters in float32) of a torch model, by the tables that checkpoints are read with."""
    hub = hub_config.describe("memory", json.loads(model.config.to_json_string(use_diff=False)))
    found = {name: Tensor(tuple(x.shape), Path("memory"), x.detach().numpy) for name, x in model.state_dict().items()}
    return hub.config, convert.load(hub, found, "memory", "float32")
