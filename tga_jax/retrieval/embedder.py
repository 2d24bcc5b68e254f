"""Embeddings by one checkpoint, kept on disk by the content of what is embedded and of the checkpoint."""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tga_jax.data import images
from tga_jax.data.media import Store
from tga_jax.errors import UserError
from tga_jax.inference import model
from tga_jax.report.progress import Progress
from tga_jax.retrieval import cache
from tga_jax.workdir import write_json

TEXTS = "texts.json"

_TEXT_PART, _PICTURE_PART = 4096, 256
# Half precision takes half the space; a cosine is off by less than 2**-10, and by far less than bfloat16 models are.
_STORED = np.float16


def fingerprint(clip: model.Model) -> str:
    """Of all that an embedding depends on: config, parameters, tokenizer and image preprocessing."""

    def parts() -> Iterator[str | bytes]:
        yield json.dumps(dataclasses.asdict(clip.spec), sort_keys=True, default=str)
        yield clip.processor.tokenizer.backend_tokenizer.to_str()
        for path, leaf in jax.tree.leaves_with_path(clip.params):
            yield jax.tree_util.keystr(path)
            yield np.asarray(leaf).tobytes()

    return cache.digest(parts())


class Embedder:
    """checkpoint: a CLIP; folder: the cache; bar: where progress is shown."""

    def __init__(self, checkpoint: Path, dtype: str, folder: Path, bar: Progress):
        """Raises UserError as `load` does."""
        self._clip, self._folder, self._bar = model.load(checkpoint, dtype), folder, bar
        self._mark = fingerprint(self._clip)
        self._about = {"embedder": self._mark, "checkpoint": str(checkpoint), "compute_dtype": dtype}

    def _rows(self, kind: str, keys: list[str], make: Callable[[int], np.ndarray]) -> np.ndarray:
        task = self._bar.add_task(f"{kind} embedded", total=len(keys), visible=False)

        def stored(i: int) -> np.ndarray:
            self._bar.update(task, completed=i, visible=True)
            made = make(i).astype(_STORED)
            self._bar.update(task, completed=i + 1)
            return made

        return cache.rows(self._folder, kind, keys, stored, self._about)

    def texts(self, texts: list[str]) -> tuple[np.ndarray, Path]:
        """(float16 [N, E], the folder in which they and the texts are kept)."""
        parts = cache.parts(texts, _TEXT_PART)
        keys = [cache.digest([self._mark, *part]) for part in parts]
        home = cache.home(self._folder, "texts", keys)
        if not (home / TEXTS).exists():
            write_json(home / TEXTS, texts)
        return self._rows("texts", keys, lambda i: self._clip.embed_texts(parts[i])), home

    def pictures(self, store: Store, names: Sequence[str], places: Sequence[str]) -> tuple[np.ndarray, Path]:
        """(float16 [N, E] of the pictures in `store`, the folder in which they are kept).

        Raises UserError naming the place of a picture that is missing or corrupt.
        """

        def at_place(of: Callable[[str], Any], i: int) -> Any:
            try:
                return of(names[i])
            except UserError as error:
                raise UserError(f"{places[i]}: {error}") from error

        def content(name: str) -> bytes:
            return hashlib.sha256(store.read(name)).digest()

        def pixels(name: str) -> np.ndarray:
            return self._clip.processor.pixels([images.decode(store.read(name), name)])[0]

        parts = cache.parts(range(len(names)), _PICTURE_PART)
        with ThreadPoolExecutor() as pool:

            def each(of: Callable[[str], Any], part: Sequence[int]) -> list[Any]:
                return list(pool.map(lambda i: at_place(of, i), part))

            keys = [
                cache.digest([self._mark, *each(content, part)])
                for part in self._bar.track(parts, description="pictures read")
            ]
            rows = self._rows("pictures", keys, lambda i: self._clip.embed_images(each(pixels, parts[i])))
        return rows, cache.home(self._folder, "pictures", keys)
