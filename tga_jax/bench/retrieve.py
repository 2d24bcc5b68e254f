"""`tga bench retrieve`: queries a second of exact search in JAX and of IVF against faiss flat, in turns."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import faiss
import jax
import numpy as np
import rich.console
import rich.table

from tga_jax.retrieval import index
from tga_jax.retrieval.search import Exact
from tga_jax.workdir import write_json

DATA = ("uniform", "clustered")
_PAPER = 558_000, 1_200_000  # queries and rows that the hours are extrapolated to
_CLUSTER = 100  # rows of a cluster
_SPREAD = 0.8  # of a cluster: the norm of what is added to its centre
_TUNING = 4096  # queries, others than those that are timed


@dataclasses.dataclass(frozen=True)
class RetrieveFigures:
    data: str
    cosine: float  # of a query to the row that it was made from
    rows: int
    size: int
    queries: int
    # Queries a second: medians of the repeats; ratios to faiss flat, of each repeat.
    flat_per_second: float
    exact_per_second: float
    exact_ratios: list[float]
    exact_leading: int  # coordinates that bound the products; `size`: all are computed
    exact_build_seconds: float
    exact_agrees: float  # share of queries with flat's highest score, within 1e-5
    ivf_per_second: float
    ivf_ratios: list[float]
    ivf_probed: int
    ivf_lists: int
    ivf_recall: float  # of the nearest row, on the timed queries
    ivf_build_seconds: float
    # Of 558,000 queries among 1,200,000 rows, at a time that grows with both; building not counted.
    flat_hours: float
    exact_hours: float
    ivf_hours: float


def _unit(x: np.ndarray) -> np.ndarray:
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x


def corpus(data: str, count: int, size: int, seed: int = 0) -> np.ndarray:
    """Unit rows float32 [count, size]: of random directions, or around random centres, one for a hundred rows."""
    rng = np.random.default_rng(seed)
    rows = _unit(rng.standard_normal((count, size), np.float32))
    if data == "clustered":
        centres = _unit(rng.standard_normal((-(-count // _CLUSTER), size), np.float32))
        rows = _unit(np.float32(_SPREAD) * rows + centres[rng.integers(len(centres), size=count)])
    return rows


def queries(rows: np.ndarray, count: int, cosine: float, seed: int) -> np.ndarray:
    """Unit vectors [count, E], each at this cosine to some row, in a random direction from it."""
    rng = np.random.default_rng(seed)
    own = rows[rng.integers(len(rows), size=count)]
    noise = rng.standard_normal(own.shape, np.float32)
    noise = _unit(noise - (noise * own).sum(1, keepdims=True) * own)
    return _unit(np.float32(cosine) * own + np.float32(1 - cosine**2) ** 0.5 * noise)


def _timed(search: index.Search, asked: np.ndarray) -> tuple[float, np.ndarray]:
    """(queries a second, highest scores)"""
    start = time.perf_counter()
    scores = search(asked, 1)[0][:, 0]
    return len(asked) / (time.perf_counter() - start), scores


def _hours(per_second: float, rows: int) -> float:
    count, more = _PAPER
    return count / per_second * more / rows / 3600


def measure(data: str, cosines: list[float], rows: int, dim: int, count: int, repeats: int) -> list[RetrieveFigures]:
    """Figures for every cosine, on one corpus with one flat index and one of inverted lists."""
    made = corpus(data, rows, dim)
    flat = index.flat(made)
    start = time.perf_counter()
    ivf = index.train_ivf(made)
    ivf_seconds = time.perf_counter() - start
    found = []
    for cosine in cosines:
        asked, others = queries(made, count, cosine, 1), queries(made, _TUNING, cosine, 2)
        start = time.perf_counter()
        exact = Exact(made, others, 1)
        exact_seconds = time.perf_counter() - start
        some = others[:256]
        index.tune(ivf, some, flat.search(some, 1)[0][:, 0], ivf.nlist)  # pyrefly: ignore
        exact.search(asked, 1)  # compiles
        turns = [[_timed(of, asked) for of in (flat.search, exact.search, ivf.search)] for _ in range(repeats)]
        rates = np.array([[rate for rate, _ in turn] for turn in turns])
        best, ours, listed = (scores for _, scores in turns[0])
        middle = np.median(rates, 0).tolist()
        found.append(
            RetrieveFigures(
                data, cosine, rows, dim, count,
                middle[0],
                middle[1], (rates[:, 1] / rates[:, 0]).tolist(), exact.leading, exact_seconds,
                float(np.mean(np.abs(ours - best) < 1e-5)),
                middle[2], (rates[:, 2] / rates[:, 0]).tolist(), ivf.nprobe, ivf.nlist,
                float(np.mean(listed >= best - 1e-5)), ivf_seconds,
                *(_hours(rate, rows) for rate in middle),
            )
        )  # fmt: skip
        del exact
    return found


def report(
    console: rich.console.Console,
    target: Path | None,
    *,
    cosines: list[float],
    rows: int,
    dim: int,
    queries: int,
    repeats: int,
) -> None:
    """Prints the figures of both kinds of data, and writes them as JSON."""
    device = jax.devices()[0].device_kind
    table = rich.table.Table(title=f"{rows:,} rows of {dim}, {queries:,} queries at once, {device}")
    for name in ["data", "cosine", "flat/s", "exact/s", "ratio", "IVF/s", "ratio", "recall", "hours"]:
        table.add_column(name)
    figures: list[dict[str, Any]] = []
    for data in DATA:
        with console.status(f"{data} data"):
            found = measure(data, cosines, rows, dim, queries, repeats)
        for f in found:
            figures.append(dataclasses.asdict(f))
            table.add_row(
                f.data, f"{f.cosine:g}", f"{f.flat_per_second:.0f}",
                f"{f.exact_per_second:.0f}", f"{np.median(f.exact_ratios):.2f}",
                f"{f.ivf_per_second:.0f}", f"{np.median(f.ivf_ratios):.2f}",
                f"{f.ivf_recall:.4f}", f"{f.flat_hours:.1f} {f.exact_hours:.1f} {f.ivf_hours:.1f}",
            )  # fmt: skip
    console.print(table)
    console.print(
        f"ratio: to faiss flat with the same queries, median of {repeats} turns; hours: {_PAPER[0]:,} queries among "
        f"{_PAPER[1]:,} rows, extrapolated (flat, exact, IVF)"
    )
    if target is not None:
        write_json(
            target,
            {
                "device": device,
                "threads": faiss.omp_get_max_threads(),
                "versions": {"jax": jax.__version__, "faiss": faiss.__version__},
                "figures": figures,
            },
        )
