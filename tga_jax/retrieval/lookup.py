"""`tga retrieve --query`: the texts of a cached corpus that are nearest to a text or a picture."""

from pathlib import Path

import rich.console

from tga_jax.errors import UserError
from tga_jax.inference import model
from tga_jax.retrieval import cache
from tga_jax.retrieval.embedder import TEXTS, fingerprint
from tga_jax.retrieval.index import open_index
from tga_jax.workdir import read_json


def neighbours(query: str, clip: Path, folder: Path, count: int, dtype: str = "float32") -> list[tuple[float, str]]:
    """The nearest texts with their cosines, nearest first. query: a text, or a picture's file if there is one.

    folder: a cache that holds one corpus embedded by the checkpoint `clip`, or that corpus's own folder in a cache.
    Raises UserError naming the folder.
    """
    loaded = model.load(clip, dtype)
    mark = fingerprint(loaded)
    found = [
        home
        for home in [folder, *sorted(folder.glob("texts-*"))]
        if (home / cache.ROWS).exists()
        and (home / TEXTS).exists()
        and read_json(home / cache.ABOUT, "what the folder holds", ("embedder",))["embedder"] == mark
    ]
    if len(found) != 1:
        names = f"the corpora {', '.join(home.name for home in found)}" if found else "no corpus"
        raise UserError(f"{folder}: {names} embedded by {clip} in {dtype}, expected the folder of one")
    texts = read_json(found[0] / TEXTS, "the texts of a corpus", kind=list)
    embed = loaded.embed_images if Path(query).is_file() else loaded.embed_texts
    index = open_index(cache.read(found[0] / cache.ROWS), "exact")
    scores, rows = index.search(embed([query]), min(count, len(texts)))
    return [(float(score), texts[row]) for score, row in zip(scores[0], rows[0], strict=True)]


def run(query: str, clip: Path, folder: Path, count: int, dtype: str, console: rich.console.Console) -> None:
    """Prints `neighbours`, one a line."""
    for score, text in neighbours(query, clip, folder, count, dtype):
        console.print(f"{score:.4f}  {text}", markup=False, highlight=False, soft_wrap=True)
