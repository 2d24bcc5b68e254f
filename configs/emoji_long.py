"""The demo with a projector that reads the whole picture for every image token, and longer trainings.

Run:    bash launch/local.sh demo --config=configs/emoji_long.py
Why:    a guide on single image tokens can only be met by a projector that knows, at each of them, the whole caption.
"""

from ml_collections import ConfigDict

from configs import emoji


def stage1(**fields) -> dict:
    return emoji.stage1(**{"steps": 1800, "learning_rate": 3e-3, **fields})


def tga_stages(**fields) -> dict:
    """As in emoji.py; the fit is longer, and the guide stays on in stage 2."""
    stages = emoji.tga_stages(**fields)
    stages["fit"] |= {"steps": 4000, "learning_rate": 3e-3}
    stages["stage2"]["guide"] = True
    return stages


def rows() -> dict:
    rows = emoji.rows()
    for name, guided in (("base", False), ("tga_paper", True)):
        rows[name]["stages"]["stage1"] = stage1(guide=guided)
    rows["tga"]["stages"] = tga_stages()
    return rows


def get_config() -> ConfigDict:
    config = emoji.get_config()
    config.name = "emoji_long"
    config.model = "emoji-resampler"
    config.update({"text": {"mix": {"tile_words": 16}}})  # as many as the resampler has queries
    config.rows = rows()
    return config
