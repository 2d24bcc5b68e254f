"""TGA on SmolLM2-135M-Instruct and a CLIP of 49 patches, for a small machine: by default this project's recipe.

Run:
    bash launch/local.sh train --config=configs/smollm2.py --workdir=runs/fit
    bash launch/local.sh train --config=configs/smollm2.py:tiled --workdir=runs/tiled
`:stage1` and `:stage2`, the paper's equation, and the others are in `llava.py`, with what has been shown for each. What
carries over is the text safety that the language model has; as it is published, this one refuses next to nothing. The
recipe's results are those of configs/reproduce.py, which teaches it to refuse and has a smaller CLIP; trained from this
file it was not yet.
"""

from ml_collections import ConfigDict

from configs import llava


def get_config(variant: str = "fit") -> ConfigDict:
    config = llava.get_config(
        variant,
        model="tga-smollm2-135m",
        template="chatml",
        llm="HuggingFaceTB/SmolLM2-135M-Instruct",
        clip="openai/clip-vit-base-patch32",
    )
    first = variant in llava.FIRST
    if variant in ("fit", "tiled"):  # 32 positions are the picture's, 49 below
        lengths, labels = ((64, 128), (32, 96)) if first else ((128, 256, 512), (128, 256, 512))
    else:
        lengths, labels = ((128, 256), (64, 192)) if first else ((256, 512), (256, 512))
        config.update({"optim": {"learning_rate": 1e-3 if first else 2e-5}})
    config.update({"batch_size": 32, "dtype": "float32", "remat": "none"})
    config.update({"data": {"lengths": lengths, "labels": labels, "threads": 2}})
    if variant.startswith("released"):
        # Of 30 blocks, as the released code's of 32.
        config.update({"loss": {"guide": {"layers": tuple(range(9, 18))}}})
    return config
