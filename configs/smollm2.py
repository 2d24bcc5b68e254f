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
    if config.loss.guide is not None:
        config.loss.guide.layers = tuple(range(9, 18))  # of 30 blocks, as the published ones are of 32
    config.batch_size = 32
    config.dtype = "float32"
    config.remat = "none"
    config.optim.learning_rate = 1e-3 if variant == "stage1" else 2e-5
    config.data.lengths = (128, 256) if variant == "stage1" else (256, 512)
    config.data.labels = (64, 192) if variant == "stage1" else (256, 512)
    config.data.threads = 2
    return config
