"""`mistral_7b` with the released code's guide, or another, on random rows: to compile, to plan and to time.

Run:    tga bench aot --config=configs/bench_mistral_7b.py:stage2 --target=8xH200 --config.batch_size=64
        tga bench plan --config=configs/bench_mistral_7b.py:stage2 --target=v5p-128 --config.batch_size=512
        tga bench train --config=configs/bench_mistral_7b.py:stage1 --config.batch_size=32
`:none`, `:paper` and `:tiled` are stage 2 without a guide, with the paper's and with this project's.
"""

from ml_collections import ConfigDict

from configs import llava, mistral_7b

GUIDES = {"none": None, "paper": llava.paper(), "tiled": llava.tiled()}


def get_config(variant: str = "stage2") -> ConfigDict:
    if variant in GUIDES:
        config = mistral_7b.get_config("baseline")
        config.loss = {**config.loss, "guide": GUIDES[variant]}
    else:
        config = mistral_7b.get_config(f"released_{variant}")  # as the figures that are compared with it
    config.update(
        {
            "name": f"bench-mistral-7b-{variant}",
            "init": {"clip": "", "projector": "", "llm": ""},
            "batch_size": 8,
            "remat": "full",
            "data": {"lengths": (640, 768, 896, 1024, 1280), "labels": (64, 192, 256, 384, 512)},
        }
    )
    return config
