"""TGA on Llama-2-7B-Chat.

Run, on one accelerator of 141 GB or more (see launch/ for many):
    bash launch/local.sh train --config=configs/llama2_7b.py:stage1 --workdir=runs/stage1
    bash launch/local.sh train --config=configs/llama2_7b.py:stage2 --workdir=runs/stage2 \\
        --config.init.projector=runs/stage1
`:baseline` is stage 2 without the guide. Any field can be given: --config.data.source.llava.path=mine.jsonl.
"""

from ml_collections import ConfigDict

from configs import llava


def get_config(variant: str = "stage1") -> ConfigDict:
    return llava.get_config(
        variant,
        model="tga-llama-2-7b",
        template="llama_2",
        llm="checkpoints/Llama-2-7b-chat-hf",
        clip="checkpoints/clip-vit-large-patch14-336",
    )
