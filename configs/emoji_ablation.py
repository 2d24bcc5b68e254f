"""What the recipe of emoji.py stands on: its rows with one thing changed, and other places to guide.

Run:    bash launch/local.sh reproduce --config=configs/emoji_ablation.py --scale=full
"""

from ml_collections import ConfigDict

from configs import emoji


def row(note: str, guide: dict | None, stages: dict, **changed) -> dict:
    """changed: stage name -> its fields that differ, or None for a stage that is left out."""
    stages = {name: {**stage, **(changed.get(name) or {})} for name, stage in stages.items()}
    return {"note": note, "guide": guide, "stages": {n: s for n, s in stages.items() if changed.get(n, s) is not None}}


def get_config() -> ConfigDict:
    config = emoji.get_config()
    config.name = "emoji_ablation"
    tga, tiled = emoji.tga_stages, emoji.tiled
    # A picture's question instead of its caption, and the guide on the positions after the picture.
    asked = emoji.stage1_after_fit(task="asked")
    ordinary = {"stage1": emoji.stage1(), "stage1_asked": asked, "stage2": {**tga()["stage2"], "guide": False}}
    instruction = {"kind": "instruction", "layers": (), "weight": 1.0, "decay": "constant"}  # at every block
    rows = {
        "base_gentle": row("base, with the gentle stage 2 of tga", None, ordinary, stage1_asked=None),
        "tga_released_early": row(
            "the released code's loss at layers 0 and 1",
            emoji.released(layers=(0, 1)),
            {"stage1": emoji.stage1(guide=True), "stage2": emoji.stage2(guide=True, retrieved_share=0.5)},
        ),
        "tga_benign": row("tga, guided on benign pictures only", tiled(), tga(guided="benign")),
        "tga_distill": row("guided after the picture, at the instruction: distilled refusal", instruction, ordinary),
        "tga_distill_benign": row(
            "the same, guided on benign pictures only", instruction, ordinary, stage1_asked={"guided": "benign"}
        ),
        "tga_stage1": row("tga, with a stage 1 after the fit", tiled(), {**tga(), "stage1": emoji.stage1_after_fit()}),
        "tga_no_fit": row(
            "tga with a stage 1 at the usual rate in place of the fit",
            tiled(),
            {**tga(), "stage1": emoji.stage1(guide=True, steps=2000)},
            fit=None,
        ),
        "tga_no_vocab": row("tga without the cross-entropy over words", tiled(vocab_weight=0.0), tga()),
        "tga_unguided_stage2": row("tga, not guided in stage 2", tiled(), tga(), stage2={"guide": False}),
        "tga_harsh_stage2": row("tga, with base's stage 2", tiled(), tga(), stage2=emoji.stage2()),
        "tga_pictures_only_stage2": row("tga, stage 2 without text rows", tiled(), tga(), stage2={"text_share": 0.0}),
        "tga_read_layers": row("tga at layers 0 and 1 instead of 0", tiled(layers=(0, 1)), tga()),
    }
    config.rows = {**emoji.rows(), **rows}
    return config
