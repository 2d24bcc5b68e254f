"""`mistral_7b` with the released code's guide on random rows: to compile, to plan and to time.

Run:    tga bench aot --config=configs/bench_mistral_7b.py:stage2 --target=8xH200 --config.batch_size=64
        tga bench plan --config=configs/bench_mistral_7b.py:stage2 --target=v5p-128 --config.batch_size=512
        tga bench train --config=configs/bench_mistral_7b.py:stage1 --config.batch_size=32
"""

from ml_collections import ConfigDict

from configs import mistral_7b


def get_config(stage: str = "stage2") -> ConfigDict:
    config = mistral_7b.get_config(f"released_{stage}")  # as the figures that are compared with it
    config.update(
        {
            "name": f"bench-mistral-7b-{stage}",
            "init": {"clip": "", "projector": "", "llm": ""},
            "batch_size": 8,
            "remat": "full",
            "data": {"lengths": (640, 768, 896, 1024, 1280), "labels": (64, 192, 256, 384, 512)},
        }
    )
    return config
