"""TGA on SmolLM2-135M-Instruct and a CLIP of 49 patches: the two stages of the 7B configs on a small machine.

Run:
    bash launch/local.sh train --config=configs/smollm2.py:stage1 --workdir=runs/stage1
    bash launch/local.sh train --config=configs/smollm2.py:stage2 --workdir=runs/stage2 \\
        --config.init.projector=runs/stage1
"""

from ml_collections import ConfigDict

from configs import llava


def get_config(variant: str = "stage1") -> ConfigDict:
    config = llava.get_config(
        variant,
        model="tga-smollm2-135m",
        template="chatml",
        llm="checkpoints/SmolLM2-135M-Instruct",
        clip="checkpoints/clip-vit-base-patch32",
    )
    first = variant in llava.FIRST
    config.update(
        {
            "batch_size": 32,
            "dtype": "float32",
            "remat": "none",
            "optim": {"learning_rate": 1e-3 if first else 2e-5},
            "data": {
                "lengths": (128, 256) if first else (256, 512),
                "labels": (64, 192) if first else (256, 512),
                "threads": 2,
            },
        }
    )
    if variant.startswith("released"):
        config.update(
            {"loss": {"guide": {"layers": tuple(range(9, 18))}}}
        )  # of 30 blocks, as the released code's of 32
    return config
