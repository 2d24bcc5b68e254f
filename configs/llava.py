"""What the 7B configs share: LLaVA's two stages with TGA's guide, and the same without it.

Batch, rates, warm-up and epochs are LLaVA-1.5's (scripts/v1_5/pretrain.sh and finetune.sh of haotian-liu/LLaVA) where
TGA's released code (xsc1234/VLM_Safety_Transfer) has no other; that has, for stage 2, a rate of 2e-6 and a length of
1200. The guide's weights, decay and layers are the released code's, for 32 blocks.
"""

from ml_collections import ConfigDict

STAGES = ("stage1", "stage2", "baseline")
_PRETRAIN, _FINETUNE = 558_128, 665_298  # samples of LLaVA's two sets


def guide(**fields) -> dict:
    return {
        "kind": "released",
        "layers": tuple(range(10, 19)),
        "pair_weight": 0.25,
        "hinge_weight": 0.1,
        "pair_decay": "linear",
        "hinge_decay": "quadratic",
        **fields,
    }


def get_config(variant: str, model: str, template: str, llm: str, clip: str) -> ConfigDict:
    """variant: "stage1" trains the projector, "stage2" the projector and the decoder, "baseline" is stage 2 without the
    guide and without retrieved text. llm, clip: folders of the checkpoints that they start from."""
    if variant not in STAGES:
        raise ValueError(f"{variant!r}, expected one of {', '.join(STAGES)}")
    first = variant == "stage1"
    config = ConfigDict()
    config.name = f"{model}-{variant}"
    config.seed = 0
    config.model = model
    # Stage 2 starts from stage 1's work folder: --config.init.projector=runs/...
    config.init = {"clip": clip, "projector": "" if first else "runs/stage1", "llm": llm}
    config.batch_size = 256 if first else 128
    config.steps = -(-(_PRETRAIN if first else _FINETUNE) // config.batch_size)  # one epoch
    config.dtype = "bfloat16"
    config.remat = "none" if first else "full"
    config.attention = "auto"
    config.loss = {"lm": 1.0, "guide": None if variant == "baseline" else guide()}
    config.optim = {
        "learning_rate": 1e-3 if first else 2e-6,
        "schedule": (("projector/.*", 1.0), ("clip/.*", 0.0), ("llm/.*", 0.0 if first else 1.0)),
        "warmup": 0.03,
        "decay": "cosine",
        "weight_decay": 0.0,
        "clip_norm": 1.0,
        "b1": 0.9,
        "b2": 0.999,
        "param_dtype": "float32",
        "moment_dtype": "float32",
        "accumulate": 1,
    }
    source = {
        "kind": "llava",
        "path": "data/llava-pretrain.jsonl" if first else "data/llava-mix665k.jsonl",
        "images": "data/llava-pretrain" if first else "data/llava-mix665k",
        "template": "plain" if first else template,
        "retrieved_in_prompt": variant == "stage2",
    }
    config.data = {
        "tokenizer": llm,
        "source": {"llava": source},
        # 576 of each are the picture's.
        "lengths": (640, 768) if first else (640, 768, 896, 1024, 1280),
        # Stage 1 learns the caption, no more; stage 2's answers may fill what the picture leaves, and a text-only row
        # the whole length.
        "labels": (64, 192) if first else (640, 768, 896, 1024, 1280),
        "caption_length": 128,
        "image_mode": "pad",
        "threads": 16,
        "policy": {"too_long": "cut", "missing": "fail"},
    }
    config.mesh = {"data": 1, "fsdp": -1, "tensor": 1}
    config.lora = None
    config.log_every = 10
    config.checkpoint_every = 500
    config.keep = 2
    config.keep_every = 0
    config.wandb = ""
    return config
