"""R of a picture: the nearest text of a corpus that is neither the picture's own caption nor nearly the same."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tga_jax.retrieval.index import open_index

_FIRST, _MOST = 8, 2048  # nearest texts that are looked at: at first, and at most


def plain(text: str) -> str:
    """Without case, blanks and punctuation: texts that agree in it are the same caption."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(c for c in folded if unicodedata.category(c)[0] not in "PZC")


class CaptionIndex:
    """N different texts and their unit embeddings [N, E], which may be float16 and memory-mapped."""

    def __init__(
        self,
        texts: Sequence[str],
        embeddings: np.ndarray,
        method: str = "auto",
        sample: np.ndarray | None = None,
        file: Path | None = None,
    ):
        """method, sample, file: as `open_index` takes them."""
        self._row = {text: i for i, text in enumerate(texts)}
        if len(self._row) != len(texts) or len(texts) != len(embeddings):
            raise ValueError(f"{len(texts)} texts, {len(self._row)} different, {len(embeddings)} embeddings")
        if len(texts) < 2:
            raise ValueError(f"{len(texts)} text(s), expected at least two: one may be the picture's own")
        self.texts, self._embeddings = list(texts), embeddings
        self._index = open_index(embeddings, method, sample, file)

    @property
    def what(self) -> str:
        return self._index.what

    def nearest(self, queries: np.ndarray, own: Sequence[str], near_duplicate: float | None = None) -> np.ndarray:
        """int64 [M]: for each picture [M, E] the row of the nearest text that may be its R, -1 if there is none.

        own: the picture's caption, which no R may equal (`plain`); near_duplicate: the cosine to it that no R may
        exceed, all of `own` being among the texts; None: any. There is none if all of the 2048 nearest are excluded.
        """
        found, left = np.full(len(queries), -1), np.arange(len(queries))
        mine = [plain(text) for text, _ in zip(own, queries, strict=True)]
        most, k = min(_MOST, len(self.texts)), min(_FIRST, len(self.texts))
        while True:
            _, rows = self._index.search(queries[left], k)
            good = rows >= 0
            if near_duplicate is not None:
                captions = self._embeddings[[self._row[own[int(i)]] for i in left]].astype(np.float32)
                texts = self._embeddings[rows].astype(np.float32)
                good &= (texts @ captions[:, :, None])[:, :, 0] <= near_duplicate
            for i, row, may in zip(left, rows, good, strict=True):
                found[i] = next((r for r in row[may] if plain(self.texts[r]) != mine[i]), -1)
            left = left[found[left] < 0]
            if not len(left) or k == most:
                return found
            k = min(4 * k, most)
