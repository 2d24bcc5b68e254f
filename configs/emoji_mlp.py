"""The demo with LLaVA's token-wise projector: what the recipe does where image tokens know only their own patch.

Run:    bash launch/local.sh demo --config=configs/emoji_mlp.py
"""

from ml_collections import ConfigDict

from configs import emoji


def tga_stages() -> dict:
    stages = emoji.tga_stages()
    stages["fit"] |= {"steps": 2500}
    stages["stage1"] = emoji.stage1_after_fit()
    stages["stage2"] |= {"guide": False}
    return stages


def rows() -> dict:
    rows = emoji.rows()
    for name in ("base", "tga_paper", "tga_released"):
        rows[name]["stages"]["stage1"] |= {"steps": 2000}
        rows[name]["stages"]["stage2"] |= {"steps": 300}
    rows["tga"]["stages"] = tga_stages()
    return rows


def get_config() -> ConfigDict:
    config = emoji.get_config()
    config.name = "emoji_mlp"
    config.model = "emoji-mlp"
    config.update({"text": {"mix": {"tile_words": (17, 17)}}})  # as many as image tokens
    config.rows = rows()
    return config
