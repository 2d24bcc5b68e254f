"""A training of your own: copy this file, change what you need, and leave the rest to the defaults.

Run:
    bash launch/local.sh train --config=configs/fork_me.py:stage1 --workdir=runs/stage1
    bash launch/local.sh train --config=configs/fork_me.py --workdir=runs/mine
Any decoder and vision tower that `tga convert` knows can stand in `model`, as here or as flags, such as
    --config.model.llm=Qwen/Qwen2-7B-Instruct
    --config.model.vision=google/siglip-so400m-patch14-384 --config.data.image_mode=stretch
    --config.model.projector.kind=norm_mlp2x_gelu
Stage 1 trains a projector, stage 2 that and a LoRA of the decoder, on a file in LLaVA's JSON with `image_caption`.
"""

from ml_collections import ConfigDict

from configs import llava, mistral_7b


def get_config(variant: str = "stage2") -> ConfigDict:
    config = mistral_7b.get_config(variant)
    with config.ignore_type():
        # Folders, or names of the hub; sizes, biases, windows and the tokenizer are theirs.
        config.model = ConfigDict(
            {
                "llm": "mistralai/Mistral-7B-Instruct-v0.2",
                "vision": "openai/clip-vit-large-patch14-336",
                "projector": {"kind": "mlp2x_gelu"},
            }
        )
    config.init = ConfigDict()  # what `model` says
    source = {"path": "mine.jsonl", "images": "pictures"}
    config.update({"name": f"mine-{variant}", "data": {"tokenizer": "", "source": {"llava": source}}})
    if variant == "stage2":
        config.update(
            {
                "steps": 1000,
                "batch_size": 32,
                # The projector: the work folder of a stage 1, or "" for a new one.
                "init": {"projector": "runs/stage1"},
                "data": {"source": {"llava": {"template": "chat"}}},  # the tokenizer's own
                "lora": {"rank": 64, "alpha": 128.0, "targets": ("query", "key", "value", "out", "gate", "up", "down")},
                "optim": {
                    "learning_rate": 2e-4,
                    # What trains: the first pattern that matches a parameter's path decides; 0 freezes.
                    "schedule": (("projector/.*", 0.1), (".*_lora/.*", 1.0), ("(clip|llm)/.*", 0.0)),
                },
            }
        )
    # What pulls pictures to text: `llava.released()`, `llava.tiled()`, one of your own (fork_guide.py), or None.
    config.loss = {"lm": 1.0, "guide": llava.paper(hinge_weight=0.5)}
    return config
