"""TGA's two stages on CLIP-L/336 and Mistral-7B, on random rows: to compile, to plan and to time.

Run:    tga bench aot --config=configs/bench_mistral_7b.py:stage2 --target=8xH200 --config.batch_size=64
        tga bench plan --config=configs/bench_mistral_7b.py:stage2 --target=v5p-128 --config.batch_size=512
        tga bench train --config=configs/bench_mistral_7b.py:stage1 --config.batch_size=32
"""

from ml_collections import ConfigDict


def get_config(stage: str = "stage2") -> ConfigDict:
    """stage: "stage1" trains the projector alone."""
    config = ConfigDict()
    config.name = f"bench-mistral-7b-{stage}"
    config.seed = 0
    config.model = "tga-mistral-7b"
    config.init = {"clip": "", "projector": "", "llm": ""}
    config.steps = 1000
    config.batch_size = 8
    config.loss = {"lm": 1.0, "guide": {"layers": tuple(range(10, 19))}}
    frozen = "clip/.*" if stage == "stage2" else "(clip|llm)/.*"
    config.optim = {
        "learning_rate": 2e-6,
        "schedule": ((frozen, 0.0), (".*", 1.0)),
        "param_dtype": "float32",
        "moment_dtype": "float32",
        "accumulate": 1,
    }
    config.data = {
        "llava": {"random": {"path": "", "images": ""}},
        "lengths": (640, 768, 896, 1024, 1280),
        "labels": (64, 192, 256, 384, 512),
        "caption_length": 128,
        "tokenizer": "",
    }
    config.mesh = {"data": 1, "fsdp": -1, "tensor": 1}
    config.dtype = "bfloat16"
    config.remat = "full"
    config.attention = "auto"
    return config
