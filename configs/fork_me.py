"""A training of your own: copy this file, change what you need, and leave the rest to the defaults.

Run:
    bash launch/local.sh train --config=configs/fork_me.py --workdir=runs/mine
This one is a LoRA of Mistral-7B in stage 2, on a file in LLaVA's JSON with `image_caption` and `retrieved_caption`.
"""

from ml_collections import ConfigDict

from configs import llava, mistral_7b


def get_config() -> ConfigDict:
    config = mistral_7b.get_config("stage2")
    config.update(
        {
            "name": "mine",
            "steps": 1000,
            "batch_size": 32,
            # The projector: the work folder of a stage 1, or "" for a new one.
            "init": {"projector": "runs/stage1"},
            "data": {"source": {"llava": {"path": "mine.jsonl", "images": "pictures"}}},
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
