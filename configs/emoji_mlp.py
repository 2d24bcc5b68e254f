"""The demo with LLaVA's token-wise projector: what the recipe does where image tokens know only their own patch.

Run:    bash launch/local.sh demo --config=configs/emoji_mlp.py
"""

from ml_collections import ConfigDict

from configs import emoji


def get_config() -> ConfigDict:
    config = emoji.get_config()
    config.name = "emoji_mlp"
    config.model = "emoji-mlp"
    config.text.mix.tile_words = 17  # as many as image tokens
    for row in config.rows.values():
        row.stages.stage1.update({"steps": 2000, "learning_rate": 1e-2})
    config.rows.tga.stages.fit.steps = 2500
    config.rows.tga.stages.stage1.update({"steps": 1000, "learning_rate": 1e-3})
    config.rows.tga.stages.stage2.guide = False
    return config
