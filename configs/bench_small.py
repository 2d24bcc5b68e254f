"""A training small enough to be timed on a CPU, beside the same step in transformers and torch.

Run:    bash launch/local.sh bench train --config=configs/bench_small.py --peer=strong
"""

from ml_collections import ConfigDict


def get_config(stage: str = "stage2") -> ConfigDict:
    """stage: "stage1" trains the projector alone."""
    config = ConfigDict()
    config.name = f"bench-small-{stage}"
    config.seed = 0
    config.model = "bench-small"
    config.init = {"clip": "", "projector": "", "llm": ""}
    config.steps = 1000
    config.batch_size = 2
    config.loss = {"lm": 1.0, "guide": {"kind": "released", "layers": tuple(range(6, 12))}}
    frozen = "clip/.*" if stage == "stage2" else "(clip|llm)/.*"
    config.optim = {"learning_rate": 1e-5, "schedule": ((frozen, 0.0), (".*", 1.0))}
    # Random rows of these lengths take the place of a file's.
    config.data = {
        "source": {"random": {"kind": "llava", "path": "", "images": ""}},
        "lengths": (704,),
        "labels": (64,),
        "caption_length": 64,
        "tokenizer": "",
    }
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    config.dtype = "float32"
    config.remat = "none"
    config.attention = "auto"
    return config
