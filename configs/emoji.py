"""The demo: a vision-language model from scratch on the emoji scenes, aligned four ways, and measured.

Run:    bash launch/local.sh demo            (--quick: `emoji.py:quick`, to see all parts at work)
Fork:   copy this file, change a row, and run `bash launch/local.sh demo --config=configs/mine.py`; CLIP, the text
        model and every row that did not change are taken from `runs/parts`.
Flags:  any field, such as `--config.seed=1` or `--config.rows.tga.guide.vocab_weight=0.5`.
"""

from ml_collections import ConfigDict


def paper(**fields) -> dict:
    """The paper's equation, with its own weights, at all blocks."""
    own = {"layers": (), "pair_weight": 1.0, "hinge_weight": 1.0, "pair_decay": "constant", "hinge_decay": "constant"}
    return {"kind": "paper", **own, "reduce": "sum", **fields}


def released(**fields) -> dict:
    """The loss of the authors' released code, with its weights and decays, and with a gradient, which theirs lacks;
    layers scaled to this 4-block model, where refusal starts at block 2 and not at 10-18."""
    return {
        "kind": "released",
        "layers": (2, 3),
        "pair_weight": 0.25,
        "hinge_weight": 0.1,
        "pair_decay": "linear",
        "hinge_decay": "quadratic",
        "stop_gradient": False,
        **fields,
    }


def adam(learning_rate: float) -> dict:
    none = {"newton_schulz": None, "preconditioning": None}  # they are Muon's
    return {"optimizer": "adam", "learning_rate": learning_rate, "weight_decay": 0.0, **none}


def muon(learning_rate: float) -> dict:
    """With four iterations after AOL's scaling: faster than the usual five, and these models learn as well."""
    iterations = {"newton_schulz": 4, "preconditioning": "aol"}
    return {"optimizer": "muon", "learning_rate": learning_rate, "weight_decay": 0.1, **iterations}


def stage1(**fields) -> dict:
    """The projector alone, on all captioned pictures; `guide` says whether the row's guide acts."""
    return {
        "task": "caption",
        "trains": "projector",
        "steps": 850,
        "batch_size": 32,
        **muon(1e-2),
        "lm": 1.0,
        "guide": False,
        "guided": "all",
        "text_share": 0.0,
        "retrieved_share": 0.0,
        **fields,
    }


def stage2(**fields) -> dict:
    """Projector and decoder, on questions about benign pictures; text-only rows, refusals to harmful text among them,
    keep text safety, as the text-only part of LLaVA's mix does."""
    own = {"task": "visual", "trains": "projector_and_llm", "steps": 250, "text_share": 0.25}
    return stage1(**{**own, **adam(5e-4), **fields})


def tiled(**fields) -> dict:
    """Our guide: token by token and at the embedding layer, without decay."""
    return {"kind": "tiled", "layers": (0,), "weight": 1.0, "decay": "constant", "vocab_weight": 0.2, **fields}


def tga_stages(**fields) -> dict:
    """Our stages. fields: of all of them, such as guided="benign"."""
    return {
        # The projector alone learns the words' embeddings, which needs no pass through the decoder.
        "fit": stage1(guide=True, lm=0.0, steps=2800, batch_size=64, learning_rate=2e-2, **fields),
        # Gently: refusal on pictures is what the decoder unlearns first.
        "stage2": stage2(guide=True, steps=150, text_share=0.5, **adam(1e-5), **fields),
    }


def stage1_after_fit(**fields) -> dict:
    """A stage 1 that keeps the fit. The demo does without: it changes less than seeds do (tga_jax/demo/README.md)."""
    # Gently: at five times this rate the fit was lost within 300 steps.
    return stage1(guide=True, **adam(1e-3), **fields)


def rows() -> dict:
    """The ways to align that are compared."""
    return {
        "base": {
            "note": "ordinary vision-language alignment, no guide",
            "guide": None,
            "stages": {"stage1": stage1(), "stage2": stage2()},
        },
        "tga_paper": {
            "note": "the paper's equation; this decoder reads refusal off single words in its first block, before the "
            "layers that the equation acts on; SmolLM2 does not (configs/README.md, `tga reproduce`)",
            "guide": paper(),
            "stages": {"stage1": stage1(guide=True), "stage2": stage2(guide=True, retrieved_share=0.5)},
        },
        "tga_released": {
            "note": "the loss of the released code, with a gradient",
            "guide": released(),
            "stages": {"stage1": stage1(guide=True), "stage2": stage2(guide=True, retrieved_share=0.5)},
        },
        "tga": {
            "note": "image tokens pulled, one by one, to the word embeddings of the repeated caption",
            "guide": tiled(),
            "stages": tga_stages(),
        },
    }


def quick(config: ConfigDict) -> ConfigDict:
    """To see all parts at work: two rows, fewer pictures, and models trained too short to name most of them."""
    config.name = "emoji_quick"
    config.note = (
        "A quick run, which shows that all parts work and no more: every model is trained for half as long as in the "
        "full demo or less, on fewer pictures, so few of them can be named, and these rates mean nothing. The paper's "
        "guide and the released code's are left out. Run the demo without --quick for its rates."
    )
    config.rows = {name: row for name, row in rows().items() if name in ("base", "tga")}
    few = {"train_per_combo": 8, "test_harmful_per_combo": 1}
    steps = {"base": {"stage1": 120, "stage2": 30}, "tga": {"fit": 300, "stage2": 30}}
    short = {row: {"stages": {stage: {"steps": n} for stage, n in of.items()}} for row, of in steps.items()}
    config.update({"scenes": few, "clip": {"steps": 120}, "text": {"steps": 150}, "rows": short})
    return config


def get_config(kind: str = "") -> ConfigDict:
    """kind: "" or "quick"."""
    if kind not in ("", "quick"):
        raise ValueError(f"emoji.py:{kind}, expected emoji.py or emoji.py:quick")
    config = ConfigDict()
    config.name = "emoji"
    config.seed = 0
    config.model = "emoji"
    config.scenes = {
        "image_size": 64,
        "train_per_combo": 20,
        "hands": ("twemoji",),
        "held_out_hand": "noto",
        "test_benign_per_combo": 1,
        "test_harmful_per_combo": 2,
    }
    config.clip = {"steps": 560, "batch_size": 128, **muon(4e-3)}
    config.text = {
        "steps": 700,
        "batch_size": 32,
        **adam(2e-3),
        # Noise on input embeddings makes refusal depend on more than the exact word embedding.
        "embedding_noise": 2.0,
        "mix": {"harmful": 0.3, "plain": 0.3, "repeated": 0.7, "tiled": 0.4, "tile_words": (10, 10), "retrieved": 0.0},
    }
    config.rows = rows()
    config.new_tokens = 14
    return quick(config) if kind else config
