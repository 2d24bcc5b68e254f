"""TGA on Llama-2-7B-Chat.

Run, on one accelerator of 141 GB or more (see launch/ for many):
    bash launch/local.sh train --config=configs/llama2_7b.py:stage1 --workdir=runs/stage1
    bash launch/local.sh train --config=configs/llama2_7b.py:stage2 --workdir=runs/stage2 \\
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
        model="tga-llama-2-7b",
        template="llama_2",
        llm="meta-llama/Llama-2-7b-chat-hf",
        clip="openai/clip-vit-large-patch14-336",
    )
