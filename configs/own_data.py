"""Your own pictures: the recipe of the demo on a file in LLaVA's JSON with `image_caption` and `retrieved_caption`.

Run, from the parts of a finished demo (their folders are in `runs/parts`):
    bash launch/local.sh train --config=configs/own_data.py:fit --workdir=runs/mine-fit \\
        --config.data.source.own.path=mine.json --config.data.source.own.images=pictures \\
        --config.init.clip=runs/parts/clip-... --config.init.llm=runs/parts/text-...
    bash launch/local.sh train --config=configs/own_data.py:stage2 --workdir=runs/mine ... \\
        --config.init.projector=runs/mine-fit
`:fit` trains the projector alone to give the caption's words, `:stage2` the projector and the language model, gently,
to answer about pictures; `:stage1`, which may stand between, keeps the fit while the projector learns to be described.
In the demo the fit does nearly all of it (tga_jax/demo/README.md).
"""

from ml_collections import ConfigDict

VARIANTS = ("fit", "stage1", "stage2")


def get_config(variant: str = "fit") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"{variant!r}, expected one of {', '.join(VARIANTS)}")
    config = ConfigDict()
    config.name = f"own-data-{variant}"
    config.seed = 0
    config.model = "emoji"
    config.init = {"clip": "", "projector": "", "llm": ""}  # "": random
    config.steps = {"fit": 2800, "stage1": 850, "stage2": 150}[variant]
    config.batch_size = 64 if variant == "fit" else 32
    tiled = {"kind": "tiled", "layers": (0,), "weight": 1.0, "decay": "constant", "vocab_weight": 0.2}
    config.loss = {"lm": 0.0 if variant == "fit" else 1.0, "guide": tiled}
    config.optim = {
        "kind": "muon" if variant == "fit" else "adam",
        "learning_rate": {"fit": 2e-2, "stage1": 1e-3, "stage2": 1e-5}[variant],
        "weight_decay": 0.1 if variant == "fit" else 0.0,
        # First match wins; 0 freezes.
        "schedule": (("projector/.*", 1.0), ("clip/.*", 0.0), ("llm/.*", 1.0 if variant == "stage2" else 0.0)),
    }
    # More sources may stand here, each with a `weight`. `plain` describes a picture, the others answer questions.
    template = "mistral_instruct" if variant == "stage2" else "plain"
    config.data = {
        "source": {"own": {"kind": "llava", "path": "", "images": "", "template": template, "toxic": ""}},
        "lengths": (64,),
        "caption_length": 32,
        "tokenizer": "runs/parts/tokenizer",
    }
    config.mesh = {"data": -1, "fsdp": 1, "tensor": 1}
    return config
