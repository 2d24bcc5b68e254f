"""TGA on SmolLM2-135M-Instruct and a CLIP of 49 patches, for a small machine: by default this project's recipe.

Run:
    bash launch/local.sh train --config=configs/smollm2.py --workdir=runs/fit
    bash launch/local.sh train --config=configs/smollm2.py:tiled --workdir=runs/tiled
`:stage1` and `:stage2`, the paper's equation, and the others are in `llava.py`, with what has been shown for each. What
carries over is the text safety that the language model has; as it is published, this one refuses next to nothing.
"""

from ml_collections import ConfigDict

from configs import llava


def get_config(variant: str = "fit") -> ConfigDict:
    config = llava.get_config(
        variant,
        model="tga-smollm2-135m",
        template="chatml",
        llm="checkpoints/SmolLM2-135M-Instruct",
        clip="checkpoints/clip-vit-base-patch32",
    )
    config.update({"batch_size": 32, "dtype": "float32", "remat": "none"})
    config.data.threads = 2
    first = variant in llava.FIRST
    if variant in ("fit", "tiled"):  # 32 positions are the picture's, 49 below
        config.data.lengths = (64, 128) if first else (128, 256, 512)
        config.data.labels = (32, 96) if first else config.data.lengths
        return config
    config.optim.learning_rate = 1e-3 if first else 2e-5
    config.data.lengths = (128, 256) if first else (256, 512)
    config.data.labels = (64, 192) if first else config.data.lengths
    if variant.startswith("released"):
        config.loss.guide.layers = tuple(range(9, 18))  # of 30 blocks, as the released code's of 32
    return config
