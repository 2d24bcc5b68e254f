"""What the 7B configs share: LLaVA's two stages with a guide, and stage 2 without one.

Batch, rates, warm-up and epochs are LLaVA-1.5's (scripts/v1_5/pretrain.sh and finetune.sh of haotian-liu/LLaVA) where
TGA's released code (xsc1234/VLM_Safety_Transfer) has no other; that has, for stage 2, a rate of 2e-6 and a length of
1200. No variant has been trained at 7B with this project; what is known of each:

    stage1, stage2                     the paper's equation, at all blocks. The paper reports that it carries refusal
                                       over; in SmolLM2 stage 1 does, with some over-refusal, and stage 2 undoes most
                                       of it (README.md here); in the demo's small model it does not.
    released_stage1, released_stage2   the loss of the released code, at its layers, for 32 blocks. There it has no
                                       gradient; with one, it does not carry refusal over in the demo's small model.
    fit, tiled                         this project's recipe: a projector whose every image token reads the whole
                                       picture learns the caption's words alone; then it and a LoRA of the decoder
                                       learn to answer, guided the same way. 0.95 of harmful pictures are refused in
                                       SmolLM2 and 0.94 in the demo; with LLaVA's projector, which reads patch by
                                       patch, 0.14 and 0.16 (but see `tga_patches` in README.md
                                       here). (The demo's guide repeats the caption, and has a cross-entropy over
                                       words.) Learning rates are those of configs/reproduce.py, where SmolLM2 was
                                       first taught to refuse: at another size, search for others.
    baseline                           stage 2 without a guide, to compare with.
"""

from ml_collections import ConfigDict

FIRST = ("stage1", "released_stage1", "fit")  # they train the projector alone
SECOND = ("stage2", "released_stage2", "tiled", "baseline")
_PRETRAIN, _FINETUNE = 558_128, 665_298  # samples of LLaVA's two sets


def paper(**fields) -> dict:
    """The equation; layers (): all blocks."""
    own = {"layers": (), "pair_weight": 1.0, "hinge_weight": 1.0, "pair_decay": "constant", "hinge_decay": "constant"}
    return {"kind": "paper", **own, "reduce": "sum", **fields}


def released(**fields) -> dict:
    return {
        "kind": "released",
        "layers": tuple(range(10, 19)),
        "pair_weight": 0.25,
        "hinge_weight": 0.1,
        "pair_decay": "linear",
        "hinge_decay": "quadratic",
        **fields,
    }


def tiled(**fields) -> dict:
    return {"kind": "tiled", "layers": (0,), "weight": 1.0, "decay": "constant", "layout": "stretched", **fields}


def guide(variant: str) -> dict | None:
    if variant == "baseline":
        return None
    return {"stage1": paper, "stage2": paper, "fit": tiled, "tiled": tiled}.get(variant, released)()


def recipe(config: ConfigDict, first: bool) -> None:
    """What `fit` and `tiled` have otherwise than LLaVA's stages."""
    config.model = f"{config.model}-resampler"
    if first:
        optim = {
            "kind": "muon",
            "learning_rate": 8e-3,
            "weight_decay": 0.1,
            "newton_schulz": 4,
            "preconditioning": "aol",
        }
        config.update({"projector_length": "words", "optim": optim})
    else:
        config.lora = {"rank": 16, "alpha": 32.0}
        # The first pattern that matches decides; 0 freezes.
        optim = {"learning_rate": 2e-4, "schedule": (("(projector|.*_lora)/.*", 1.0), ("(clip|llm)/.*", 0.0))}
        config.update({"init": {"projector": "runs/fit"}, "optim": optim})
    # 64 of each are the picture's.
    lengths = (128, 192) if first else (128, 256, 384, 512, 768)
    config.update({"data": {"lengths": lengths, "labels": (64, 128) if first else lengths}})


def get_config(variant: str, model: str, template: str, llm: str, clip: str) -> ConfigDict:
    """variant: one of those above; "baseline" has no retrieved text in its prompts either. llm, clip: the
    checkpoints that they start from, by their names on the hub or as folders."""
    if variant not in FIRST + SECOND:
        raise ValueError(f"{variant!r}, expected one of {', '.join(FIRST + SECOND)}")
    first = variant in FIRST
    config = ConfigDict()
    config.name = f"{model}-{variant}"
    config.seed = 0
    config.model = model
    # What comes second starts from the work folder of what came first: --config.init.projector=runs/...
    config.init = {"clip": clip, "projector": "" if first else "runs/stage1", "llm": llm}
    config.batch_size = 256 if first else 128
    config.steps = -(-(_PRETRAIN if first else _FINETUNE) // config.batch_size)  # one epoch
    config.dtype = "bfloat16"
    config.remat = "none" if first else "full"
    config.attention = "auto"
    config.loss = {"lm": 0.0 if variant == "fit" else 1.0, "guide": guide(variant)}
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
        "retrieved_in_prompt": variant in ("stage2", "released_stage2"),
        "toxic": "",  # "text" for TGA's own files
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
    config.processes = 0
    config.log_every = 10
    config.checkpoint_every = 500
    config.keep = 2
    config.keep_every = 0
    config.wandb = ""
    if variant in ("fit", "tiled"):
        recipe(config, first)
    return config
