"""Cells as the grid keeps them, with numbers that follow from their names and not from any training."""

import zlib
from dataclasses import replace

import numpy as np

from tga_jax.demo import attacks, baselines, cells, measure, rates
from tga_jax.demo.cells import BEGUN, TEXT, Cell
from tga_jax.demo.config import DemoConfig
from tga_jax.demo.rates import Answer
from tga_jax.demo.world.drawing import example_id
from tga_jax.demo.world.language import LANGUAGES
from tga_jax.demo.world.plan import EmojiScenesConfig, plan, splits_of

BLOCKS = 30


def _answers(config: DemoConfig, cell: Cell, refused: float, split: str) -> list[Answer]:
    """Every 20th picture of the split; of harmful ones this share is refused."""
    speech = LANGUAGES[config.language]
    scenes = EmojiScenesConfig(**{**config.scenes, "seed": cell.seed})
    found, harmful = [], 0
    for shown in list(plan(scenes, split))[::20]:
        kind = next((thing.scene for thing in shown.things if thing.scene), "")
        says = bool(kind) and harmful < round(refused * 20)
        harmful = (harmful + bool(kind)) % 20
        text = speech.refusals[0] if says else f"This is a <thing> on {shown.color}."
        verdict = rates.verdict(speech, text)
        alike = not kind and any(thing.look_alike for thing in shown.things)
        found.append(Answer(example_id(split, shown), speech.describe[0], text, verdict, kind, alike, not says))
        if not kind:
            found.append(Answer(example_id(split, shown), speech.color[0], shown.color, "answer", "", alike, True))
    return found


def fake(config: DemoConfig, cell: Cell, dsr: float) -> dict:
    """A cell whose pictures are refused at about this rate, and whose alignment rises with it."""
    random = np.random.default_rng(zlib.crc32(cell.name.encode()))
    answers = {key: _answers(config, cell, 1.0, "test") for key in (TEXT, "text+things", "text+phrasings")}
    layers = np.linspace(0, 1, BLOCKS + 1)
    refusal = {"start": 12, "end": 29, "no_activation": 1, "probability": (layers**3).tolist()}
    inside = {"refusal": refusal, "by_difference": {**refusal, "start": 14}, "cosine": None}
    inside |= {"wordlike": None, "patching": None, "patched_at": None}
    if cell.row != TEXT:
        splits = splits_of(EmojiScenesConfig(**config.scenes))[1:]
        answers |= {split: _answers(config, cell, dsr, split) for split in splits}
        answers |= dict.fromkeys(("test+new", "test+retrieved"), answers["test"])
        if LANGUAGES[config.language].begun:
            for split in measure.SEEN:
                harmful = [a for a in answers[split] if a.kind]
                seen = len(harmful) * 3 // 4
                answers[f"{split}{BEGUN}"] = [
                    replace(a, answer="<thing>", verdict="answer", correct=i < seen) for i, a in enumerate(harmful)
                ]
        if cell.row in config.core:
            answers |= {f"attack+{name}": answers["test"] for name in attacks.ATTACKS}
        if cell.row in baselines.ROWS:
            answers |= {f"baseline+{name}": answers["test"] for name in baselines.BASELINES}
        curve = (dsr * layers + random.normal(0, 0.01, BLOCKS + 1)).tolist()
        pair = {"matched": curve, "mismatched": [0.5 * x for x in curve]}
        at = list(range(0, BLOCKS, 3))
        falling = [*np.linspace(1, dsr, len(at)).tolist(), dsr]
        inside |= {
            "cosine": {"raw": pair, "centred": pair},
            "wordlike": {"tokens nearest to the harmful word": curve},
            "patching": dict.fromkeys(("residual", "key", "value", "instruction"), falling),
            "patched_at": at,
        }
    speech = LANGUAGES[config.language]
    return {
        "config": cells.described(config, cell),
        "rates": cells.rates_of(speech, answers),
        "answers": {key: [vars(answer) for answer in found] for key, found in answers.items()},
        "settings": {"steering": {"block": 6, "strength": 1.0}} if cell.row in baselines.ROWS else {},
        "inside": inside,
        "seconds": {"training": 600.0 + 60 * cell.seed, "measuring": 90.0},
        "parameters": {"llm": 134_500_000, "projector": 3_200_000},
        "peak_memory_bytes": 4 * 2**30,
        "device": "cpu",
    }
