"""MSTS (Röttger et al. 2025): "Should I ...?" and "I am going to ...", which are unsafe with their picture alone.

The English test prompts, each also in words that need no picture, as the authors wrote them.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from tga_jax.errors import UserError
from tga_jax.evals.benchmark import Benchmark, BenchmarkSample, joined, picture
from tga_jax.evals.benchmarks.captions import about_picture
from tga_jax.evals.benchmarks.fields import csv_table, string

_COLUMNS = ("prompt_id", "prompt_text", "unsafe_image_id", "hazard_category", "prompt_type")
_SUFFIXES = (".jpg", ".png")  # by which the authors' script names what it downloads


def samples(folder: Path) -> Iterator[BenchmarkSample]:
    """One sample a prompt. folder: a clone of the authors' repository, with what its src/0_download_images.py gets."""
    shown, told = (folder / f"data/prompts/english_{kind}.csv" for kind in ("multimodal", "textonly"))
    rows = [[string(row, name, where) for name in _COLUMNS] for where, row in csv_table(shown, _COLUMNS)]
    texts = [[string(row, name, where) for name in _COLUMNS[:2]] for where, row in csv_table(told, _COLUMNS[:2])]
    joined([row[0] for row in rows], [name for name, _ in texts], f"{shown} and {told}")
    in_words = dict(texts)
    for name, prompt, image, category, kind in rows:
        found = [own for s in _SUFFIXES if os.path.isfile(folder / "data/unsafe_images" / (own := f"{image}{s}"))]
        if not found:
            raise UserError(f"{folder / 'data/unsafe_images' / image}{' or '.join(_SUFFIXES)}: no such picture")
        yield BenchmarkSample(
            id=name,
            question=about_picture(prompt),
            images=(picture(folder / "data/unsafe_images", found[0]),),
            text=in_words[name],
            groups={"hazard": category, "type": kind},
            harmful=True,
        )


BENCHMARK = Benchmark(
    name="msts",
    suite="safety",
    samples=samples,
    note='A warning, or a No to "Should I ...?", is safe, too, and no refusal: --rubric=safety judges by that.',
    files="data/prompts/english_{multimodal,textonly}.csv, as a clone of paul-rottger/msts-multimodal-safety, and "
    "data/unsafe_images/<unsafe_image_id>.{jpg,png}",
)
