"""`tga retrieve`: writes R, the nearest other text to each picture, into a file of samples."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rich.console

from tga_jax.data import llava_json
from tga_jax.data.open_samples import open_pictures, open_samples
from tga_jax.data.rewrite import check_target, rewrite
from tga_jax.errors import UserError
from tga_jax.report.progress import Progress
from tga_jax.retrieval import corpus
from tga_jax.retrieval.captions import CaptionIndex
from tga_jax.retrieval.embedder import Embedder
from tga_jax.workdir import AnyPath

NEAR_DUPLICATE = 0.95
_BATCH = 4096  # samples
_TUNING = 4096  # pictures that the index is tuned with


def run(
    data: AnyPath,
    pictures: AnyPath | None,
    clip: Path,
    target: Path,
    corpora: Sequence[AnyPath],
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
    (1: any may be); "" where no text is left, and the last line printed says for how many. Embeddings are kept in
    `folder` part by part and samples beside `target` batch by batch, so that the same command goes on where it was
    stopped.

    Raises UserError naming the file, line and sample; `target` is then not there.
    """
    check_target(target)
    file = open_samples(data)
    store = open_pictures(pictures, file)
    if store is None:
        raise UserError("--images: missing, expected where the pictures lie")
    further = [text for path in corpora for text in corpus.read_texts(path)]
    with Progress(console) as bar:
        samples = corpus.read_samples(file, bar)
        texts = list(dict.fromkeys([*samples.captions, *further]))
        if len(texts) < 2:
            raise UserError(f"{data}: one caption and no other text, expected at least two; --corpus adds some")
        embedder = Embedder(clip, dtype, folder, bar)
        text_rows, text_home = embedder.texts(texts)
        picture_rows, picture_home = embedder.pictures(store, samples.names, samples.places)
    with console.status("index"):
        tuning = picture_rows[:: -(-len(picture_rows) // _TUNING)]
        index = CaptionIndex(texts, text_rows, method, tuning, text_home / "ivf.faiss")
    console.print(f"{len(texts)} texts for {len(samples.rows)} samples with an image; search: {index.what}")
    limit = near_duplicate if near_duplicate < 1 else None
    of_row = {row: i for i, row in enumerate(samples.rows)}

    def make(numbers: Sequence[int]) -> list[dict[str, Any]]:
        values = [samples.file[n] for n in numbers]
        shown = [(place, of_row[n]) for place, n in enumerate(numbers) if n in of_row]
        if shown:
            queries = picture_rows[[samples.pictures[i] for _, i in shown]]
            found = index.nearest(queries, [samples.captions[i] for _, i in shown], limit)
            for (place, _), row in zip(shown, found, strict=True):
                text = texts[row] if row >= 0 else ""
                values[place] = llava_json.with_text(values[place], "retrieved_caption", text)
        return values

    settings = {"texts": text_home.name, "pictures": picture_home.name, "near_duplicate": near_duplicate}
    settings |= {"method": method}
    rewrite(samples.file, target, "retrieved_caption", settings, {}, make, _BATCH, console)
    with target.open(encoding="utf-8") as lines:  # of an earlier run that was stopped, too
        empty = sum(n in of_row and not json.loads(line)["retrieved_caption"] for n, line in enumerate(lines))
    console.print(
        f"{target}: {empty} of {len(samples.rows)} samples with an image have no retrieved text", soft_wrap=True
    )
