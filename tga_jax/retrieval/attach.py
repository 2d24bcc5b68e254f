"""`tga retrieve`: writes R, the nearest other text to each picture, into a file of samples."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rich.console
import rich.progress

from tga_jax.data.media import open_store
from tga_jax.errors import UserError
from tga_jax.retrieval import cache, corpus
from tga_jax.retrieval.captions import CaptionIndex
from tga_jax.retrieval.embedder import Embedder
from tga_jax.workdir import replacing

NEAR_DUPLICATE = 0.95
_PART = 4096  # samples
_TUNING = 4096  # pictures that the index is tuned with


def run(
    data: Path,
    pictures: Path,
    clip: Path,
    target: Path,
    corpora: Sequence[Path],
    folder: Path,
    console: rich.console.Console,
    *,
    near_duplicate: float = NEAR_DUPLICATE,
    method: str = "auto",
    dtype: str = "float32",
) -> None:
    """Writes `data` as JSON lines, in order, every sample with an image with a new `retrieved_caption`.

    It is the nearest text to the sample's first picture, by the checkpoint `clip`, among all captions of the file and
    the lines of `corpora`; never the sample's own caption, nor a text whose cosine to it is above `near_duplicate`
    (1: any may be); "" where no text is left. All that takes long is kept in `folder` as it is made, so that the same
    command goes on where it was stopped.

    Raises UserError naming the file, line and sample; `target` is then as it was.
    """
    if target.suffix != ".jsonl":
        raise UserError(f"{target}: expected a name in .jsonl, for a sample a line")
    store = open_store(pictures)
    further = [text for path in corpora for text in corpus.read_texts(path)]
    with rich.progress.Progress(console=console) as bar:
        samples = corpus.read_samples(data, bar)
        texts = list(dict.fromkeys([*samples.captions, *further]))
        if len(texts) < 2:
            raise UserError(f"{data}: one caption and no other text, expected at least two; --corpus adds some")
        embedder = Embedder(clip, dtype, folder, bar)
        text_rows, text_home = embedder.texts(texts)
        picture_rows, picture_home = embedder.pictures(store, samples.names, samples.places)
        index: list[CaptionIndex] = []

        def nearest(i: int) -> np.ndarray:
            if not index:  # only now is it sure that there is something to search
                tuning = picture_rows[:: -(-len(picture_rows) // _TUNING)]
                index.append(CaptionIndex(texts, text_rows, method, tuning, text_home / "ivf.faiss"))
                console.print(f"search: {index[0].what}")
            shown, own = parts[i]
            return index[0].nearest(picture_rows[shown], own, near_duplicate if near_duplicate < 1 else None)

        parts = list(zip(cache.parts(samples.pictures, _PART), cache.parts(samples.captions, _PART), strict=True))
        how = [text_home.name, picture_home.name, method, str(near_duplicate)]
        keys = [cache.digest([*how, *map(str, shown), *own]) for shown, own in parts]
        about = {"texts": text_home.name, "pictures": picture_home.name, "near_duplicate": near_duplicate}
        found = cache.rows(folder, "found", keys, cache.shown(bar, "found", keys, nearest), about)
        retrieved = dict(zip(samples.rows, found.tolist(), strict=True))
        with replacing(target) as aside, aside.open("w", encoding="utf-8") as out:
            for i in bar.track(range(len(samples.file)), description="samples written"):
                value = samples.file[i]
                if i in retrieved:
                    value["retrieved_caption"] = texts[retrieved[i]] if retrieved[i] >= 0 else ""
                out.write(json.dumps(value) + "\n")
    console.print(f"{target}: {len(samples.file)} samples, {len(found)} with an image; {len(texts)} texts")
    if without := int((found < 0).sum()):
        console.print(f"{without} have no retrieved text: all that came near was excluded")
