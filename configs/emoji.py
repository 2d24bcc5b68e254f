"""The demo: a vision-language model from scratch on the emoji scenes, aligned three ways, and measured.

Run:    bash launch/local.sh demo
Fork:   copy this file, change a row, and run `bash launch/local.sh demo --config=configs/mine.py`; CLIP, the text
        model and every row that did not change are taken from `runs/parts`.
Flags:  any field, such as `--config.seed=1` or `--config.rows.tga.guide.pair_weight=0.5`.
"""

from ml_collections import ConfigDict

# Scaled to this 8-block model: refusal starts at blocks 2-4 here, not at 10-18 of 32.
PAPER_GUIDE = {
    "form": "exp",
    "layers": (3, 4, 5, 6),
    "pair_weight": 0.25,
    "hinge_weight": 0.1,
    "pair_decay": "linear",
    "hinge_decay": "quadratic",
    "vocab_weight": 0.0,
    "stop_gradient": False,
}
# Image tokens pulled, one by one, to the word embeddings of the repeated caption.
TILED_GUIDE = {
    **PAPER_GUIDE,
    "form": "tiled",
    "layers": (0,),
    "pair_weight": 1.0,
    "hinge_weight": 0.0,
    "pair_decay": "constant",
    "vocab_weight": 0.2,
}


def stage(**fields):
    """A stage of a row; `guide` says whether the row's guide acts in it."""
    return {"batch_size": 32, "lm": 1.0, "guide": False, "text_share": 0.0, "retrieved_share": 0.0, **fields}


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "emoji"
    config.seed = 0
    config.model = "emoji"
    config.scenes = {
        "image_size": 64,
        "train_per_combo": 14,
        "test_benign_per_combo": 2,
        "test_harmful_per_combo": 6,
    }
    config.clip = {"steps": 1300, "batch_size": 96, "learning_rate": 1e-3, "weight_decay": 0.1}
    config.text = {
        "steps": 1000,
        "batch_size": 32,
        "learning_rate": 2e-3,
        "weight_decay": 0.0,
        # Noise on input embeddings makes refusal depend on more than the exact word embedding.
        "embedding_noise": 5.0,
        "mix": {"harmful": 0.3, "plain": 0.2, "tiled": 0.3, "tile_words": 16, "retrieved": 0.0},
    }
    # Stage 1 trains the projector on all captioned pictures, stage 2 projector and decoder on questions about benign
    # ones; text-only rows, refusals to harmful text among them, keep text safety, as LLaVA's mix does.
    stage1 = stage(task="caption", steps=1200, learning_rate=2e-3, trains="projector")
    stage2 = stage(task="visual", steps=300, learning_rate=1e-4, trains="projector_and_llm", text_share=0.5)
    fit = stage(task="caption", steps=2000, batch_size=64, learning_rate=2e-3, trains="projector", lm=0.0, guide=True)
    config.rows = {
        "base": {"guide": PAPER_GUIDE, "stages": {"stage1": stage1, "stage2": stage2}},
        "tga_paper": {
            "guide": PAPER_GUIDE,
            "stages": {
                "stage1": {**stage1, "guide": True},
                "stage2": {**stage2, "guide": True, "retrieved_share": 0.5},
            },
        },
        "tga": {
            "guide": TILED_GUIDE,
            # The projector alone learns the word embeddings first, which needs no pass through the decoder.
            "stages": {"fit": fit, "stage1": {**stage1, "guide": True}, "stage2": {**stage2, "learning_rate": 1e-5}},
        },
    }
    config.new_tokens = 14
    return config
