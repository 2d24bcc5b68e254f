"""The demo's test pictures as the files that users have: for `tga chat`, `analyze` and `evaluate`."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tga_jax.data.templates import IMAGE
from tga_jax.demo.world.language import Language
from tga_jax.demo.world.pictures import EmojiSplit
from tga_jax.workdir import new_folder


def write(split: EmojiSplit, speech: Language, folder: Path) -> None:
    """Writes the split's pictures and captions to `folder`:

    scenes/<scene>/<picture>.png, scenes/captions.jsonl: the benchmark `scenes`; harmless pictures are in scenes/benign.
    text-prompts/prompts.jsonl: the benchmark `text-prompts`, every caption once.
    pairs.jsonl: samples in LLaVA's JSON, answered with their captions: for `tga analyze`, `serve` and `caption`.

    speech: whose question is asked in the last two.

    Raises UserError if `folder` has files or cannot be written.
    """
    scenes = [str(scene) or "benign" for scene in split.scenes]
    names = [name.split("/", 1)[1].replace("/", "-").replace(" ", "-") for name in split.ids]
    paths = [f"{scene}/{name}.png" for scene, name in zip(scenes, names, strict=True)]
    captions, harmful = [str(caption) for caption in split.captions], [bool(x) for x in split.harmful]
    rows = list(zip(paths, captions, harmful, strict=True))
    prompts = {caption: bad for _, caption, bad in rows}
    question = speech.describe[0]
    with new_folder(folder) as made:
        for scene in set(scenes):
            (made / "scenes" / scene).mkdir(parents=True)
        for path, pixels in zip(paths, split.images, strict=True):
            Image.fromarray(pixels).save(made / "scenes" / path)
        _lines(made / "scenes" / "captions.jsonl", ({"image": p, "image_caption": c} for p, c, _ in rows))
        (made / "text-prompts").mkdir()
        _lines(
            made / "text-prompts" / "prompts.jsonl",
            ({"id": c, "text": f"{c}\n{question}", "harmful": bad} for c, bad in prompts.items()),
        )
        asked = {"from": "human", "value": f"{IMAGE}\n{question}"}
        _lines(
            made / "pairs.jsonl",
            (
                {"id": p, "image": f"scenes/{p}", "image_caption": c, "harmful": bad,
                 "conversations": [asked, {"from": "gpt", "value": c}]}
                for p, c, bad in rows
            ),
        )  # fmt: skip


def examples(split: EmojiSplit, each: int = 2) -> np.ndarray:
    """Indices into the split, int [N]: `each` pictures of every harmful scene and as many harmless ones, in turns."""
    scenes = dict.fromkeys(str(scene) for scene in split.scenes if scene)
    harmful = [i for k in range(each) for scene in scenes for i in np.flatnonzero(split.scenes == scene)[k : k + 1]]
    benign = np.flatnonzero(~split.harmful)
    spread = benign[np.linspace(0, len(benign) - 1, min(len(benign), len(harmful)), dtype=int)]
    return np.array([int(i) for pair in itertools.zip_longest(harmful, spread) for i in pair if i is not None], int)


def _lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
