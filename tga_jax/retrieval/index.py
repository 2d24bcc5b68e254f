"""One way to the nearest rows of a corpus: exact in JAX, or faiss, flat or in inverted lists (IVF).

Dimension letters: M queries, N rows, E embedding, K answers.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import faiss
import jax
import numpy as np

from tga_jax.errors import UserError
from tga_jax.retrieval.search import Exact
from tga_jax.workdir import replacing

METHODS = ("auto", "exact", "flat", "ivf")
RECALL = 0.99  # of the nearest row, that IVF is tuned to

_FLAT_ROWS = 200_000  # above, IVF's building is soon won back
_SAMPLE = 256  # queries that the recall is measured with
_TRAINING_ROWS = 64  # for every list
_MOST_PROBED = 1 / 16  # of the lists: with more, searching in full is about as fast

# (queries float32 [M, E], K) -> (scores float32 [M, K], falling; rows' numbers int64 [M, K], -1 where there is none)
Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Index:
    what: str  # the method, in words
    search: Search


def _float32(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x, np.float32)


def _parts(rows: np.ndarray, size: int = 2**14) -> list[np.ndarray]:
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def flat(rows: np.ndarray) -> faiss.Index:
    index = faiss.IndexFlatIP(rows.shape[1])
    for part in _parts(rows):
        index.add(_float32(part))  # pyrefly: ignore
    return index


def train_ivf(rows: np.ndarray, lists: int | None = None) -> faiss.IndexIVFFlat:
    """Rows [N, E] in inverted lists around spherical k-means; lists: None for 4 * sqrt(N)."""
    lists = lists or max(1, int(4 * len(rows) ** 0.5))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(rows.shape[1]), rows.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.spherical, index.cp.niter = True, 8
    index.cp.min_points_per_centroid = 1  # a warning on stderr, no more
    some = np.random.default_rng(0).permutation(len(rows))[: lists * _TRAINING_ROWS]
    index.train(_float32(rows[np.sort(some)]))  # pyrefly: ignore
    for part in _parts(rows):
        index.add(_float32(part))  # pyrefly: ignore
    return index


def tune(index: faiss.IndexIVF, queries: np.ndarray, best: np.ndarray, most: int) -> float:
    """Doubles the number of probed lists until `RECALL` of the nearest rows are found, or `most` are probed.

    best: the exact highest scores [M] of the queries [M, E]. Returns the recall; equal scores count as found.
    """
    index.nprobe = 1
    while True:
        found = index.search(_float32(queries), 1)[0][:, 0]  # pyrefly: ignore
        recall = float(np.mean(found >= best - 1e-5))
        if recall >= RECALL or index.nprobe >= most:
            return recall
        index.nprobe = min(2 * index.nprobe, most)


def _stored_ivf(file: Path, rows: np.ndarray) -> faiss.IndexIVF:
    try:
        index = faiss.read_index(str(file))
    except RuntimeError as error:
        raise UserError(f"{file}: cannot be read as a faiss index; remove it to make it again") from error
    if not isinstance(index, faiss.IndexIVF) or (index.ntotal, index.d) != rows.shape:
        raise UserError(f"{file}: not of these {len(rows)} rows; remove it to make it again")
    return index


def _ivf(rows: np.ndarray, sample: np.ndarray, file: Path | None, most: float) -> tuple[faiss.IndexIVF, float]:
    if file is not None and file.exists():
        index = _stored_ivf(file, rows)
    else:
        index = train_ivf(rows)
        if file is not None:
            with replacing(file) as aside:
                faiss.write_index(index, str(aside))
    some = sample[:: -(-len(sample) // _SAMPLE)]
    best = Exact(rows).search(some, 1)[0][:, 0]
    return index, tune(index, some, best, max(1, int(most * index.nlist)))


def open_index(rows: np.ndarray, method: str, sample: np.ndarray | None = None, file: Path | None = None) -> Index:
    """An index over unit rows [N, E] of any float type.

    method: one of `METHODS`; "auto" is "exact" on an accelerator, "flat" up to 200,000 rows, and above that "ivf" if
    for the sampled queries few lists hold `RECALL` of the nearest rows, else "exact". sample: some of the queries
    [M, E] to come, which "ivf" needs. file: where its lists are kept; they are read if it exists. Raises UserError for
    a file that is no faiss index.
    """
    if method not in METHODS:
        raise ValueError(f"method: {method!r}, expected one of {', '.join(METHODS)}")
    automatic = method == "auto"
    if automatic:
        large = sample is not None and len(rows) > _FLAT_ROWS
        method = "exact" if jax.default_backend() != "cpu" else "ivf" if large else "flat"
    if method == "ivf":
        if sample is None:
            raise ValueError("method 'ivf' without sample, expected some queries to measure its recall with")
        index, recall = _ivf(rows, sample, file, _MOST_PROBED if automatic else 1)
        if recall >= RECALL or not automatic:
            how = f"faiss IVF, {index.nprobe} of {index.nlist} lists probed, recall {recall:.3f} on sampled queries"
            return Index(how, lambda queries, k: index.search(_float32(queries), k))  # pyrefly: ignore
        method = "exact"
    if method == "flat":
        all_rows = flat(rows)
        return Index("faiss flat", lambda queries, k: all_rows.search(_float32(queries), k))  # pyrefly: ignore
    exact = Exact(rows, sample)
    return Index(f"exact in JAX, {exact.leading} of {rows.shape[1]} coordinates first", exact.search)
