"""The nearest caption of a corpus, by cosine of unit embeddings, in a faiss index."""

from collections.abc import Sequence

import faiss
import numpy as np


class CaptionIndex:
    """Exact search over unit embeddings [N, E] of N different captions."""

    def __init__(self, captions: Sequence[str], embeddings: np.ndarray):
        if len(set(captions)) != len(captions) or len(captions) != len(embeddings):
            raise ValueError(f"{len(captions)} captions, {len(set(captions))} different, {len(embeddings)} embeddings")
        if len(captions) < 2:
            raise ValueError(f"{len(captions)} caption(s), expected at least two: one may be the image's own")
        self.captions = list(captions)
        self._index = faiss.IndexFlatIP(embeddings.shape[1])
        self._index.add(np.ascontiguousarray(embeddings, np.float32))  # pyright: ignore[reportCallIssue]

    def nearest(self, queries: np.ndarray, own: Sequence[str]) -> list[str]:
        """R for each query [M, E]: the nearest caption that is not `own[i]`, the image's own.

        All captions are different, so of the two nearest at most one is the image's own.
        """
        _, found = self._index.search(np.ascontiguousarray(queries, np.float32), 2)  # pyright: ignore[reportCallIssue]
        pairs = [(self.captions[a], self.captions[b]) for a, b in found]
        return [second if first == mine else first for (first, second), mine in zip(pairs, own, strict=True)]
