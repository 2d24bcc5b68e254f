"""TGA on Vicuna-7B-v1.5: LLaVA-1.5's own decoder.

Run, on one accelerator of 141 GB or more (see launch/ for many):
    bash launch/local.sh train --config=configs/vicuna_7b.py:stage1 --workdir=runs/stage1
    bash launch/local.sh train --config=configs/vicuna_7b.py:stage2 --workdir=runs/stage2 \\
        --config.init.projector=runs/stage1
Other variants are in `llava.py`: `:fit` and `:tiled`, this project's recipe; `:released_stage1` and
`:released_stage2`, the loss of the released code; `:baseline`, stage 2 without a guide. Any field can be given:
--config.data.source.llava.path=mine.jsonl.
"""

from ml_collections import ConfigDict

from configs import llava


def get_config(variant: str = "stage1") -> ConfigDict:
    return llava.get_config(
        variant,
        model="llava-v1.5-7b",
        template="vicuna_v1",
        llm="lmsys/vicuna-7b-v1.5",
        clip="openai/clip-vit-large-patch14-336",
    )
