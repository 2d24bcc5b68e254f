"""Exact nearest rows by inner product of unit vectors, in JAX, in static chunks: memory does not grow with the corpus.

Dimension letters: M queries, N rows, E embedding, K answers, D leading coordinates; on the device at a time Q queries
and C rows, these as T tiles of blocks of B rows.

A query's K best rows lie in the K blocks with the highest maxima, so that only maxima are compared, not all products.
If D coordinates of a rotation hold most of the vectors, their products with what is left of both vectors as one more
coordinate, the norm of the rest, are never below the whole products (Cauchy and Schwarz). Blocks are then chosen by
these bounds, and a query whose answer they do not prove is asked again in full.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

_BLOCK = 8  # B
_ROWS = 2**16  # C at most
_SPARE = 4  # blocks that a bound has looked into, beside one for every answer
_SLACK = 1e-5  # above the rounding of float32 in a sum of at most 1
_SHARES = (
    1 / 16,
    1 / 12,
    1 / 8,
    1 / 6,
    1 / 5,
    1 / 4,
    1 / 3,
    1 / 2,
)  # of the coordinates, that are tried as the leading ones
_OVERHEAD = 0.05  # of choosing and looking into blocks, as a part of the cost of all products
_SAMPLE = 128  # queries


def _sizes() -> tuple[int, int, int]:
    """Q, rows of a tile, and queries of a gather: on a CPU what they give has to stay in the cache."""
    return (256, 2**12, 32) if jax.default_backend() == "cpu" else (2**12, 2**16, 512)


@partial(jax.jit, static_argnames=("k", "blocks", "gathered"))
def _nearest(
    queries: Array, rows: Array, leading: tuple[Array, Array], count: Array, k: int, blocks: int, gathered: int
) -> tuple[Array, Array, Array]:
    """(scores [Q, K], rows' numbers [Q, K], the highest bound [Q] of the blocks not looked into).

    queries [Q, E]; rows [T, C / T, E], the first `count` of them real; leading: of both, whose products bound theirs.
    """
    size = rows.shape[-1]

    def maxima(tile: Array) -> Array:
        bounds = jnp.dot(leading[0], tile.T, precision="highest")
        return bounds.reshape(len(queries), -1, _BLOCK).max(-1)

    def look(of: tuple[Array, Array]) -> Array:
        return jnp.dot(rows.reshape(-1, _BLOCK, size)[of[0]].reshape(-1, size), of[1], precision="highest")

    found = jnp.moveaxis(jax.lax.map(maxima, leading[1]), 0, 1).reshape(len(queries), -1)
    found = jnp.where(jnp.arange(found.shape[1]) * _BLOCK < count, found, -jnp.inf)
    # The barrier keeps XLA's CPU compiler from making a full sort of it.
    bounds, chosen = jax.lax.optimization_barrier(jax.lax.top_k(found, min(blocks + 1, found.shape[1])))
    rest = bounds[:, blocks] if blocks < found.shape[1] else jnp.full(len(queries), -jnp.inf)
    chosen = chosen[:, :blocks]
    exact = jax.lax.map(look, (chosen, queries), batch_size=gathered)
    ids = (chosen[:, :, None] * _BLOCK + jnp.arange(_BLOCK)).reshape(len(queries), -1)
    scores, at = jax.lax.top_k(jnp.where(ids < count, exact, -jnp.inf), min(k, ids.shape[1]))
    return scores, jnp.take_along_axis(ids, at, 1), rest


def _filled(x: np.ndarray, count: int) -> np.ndarray:
    """Float32, with the last row repeated up to `count` rows: no block's maximum is of anything but real rows."""
    x = np.asarray(x, np.float32)
    return x if len(x) == count else np.pad(x, ((0, count - len(x)), (0, 0)), "edge")


@jax.jit
def _leading(x: Array, basis: Array) -> Array:
    """[.., E] -> [.., D + 1]: the coordinates in `basis` [E, D], and the norm of the rest."""
    lead = jnp.dot(x, basis, precision="highest")
    rest = jnp.sum(x * x, -1, keepdims=True) - jnp.sum(lead * lead, -1, keepdims=True)
    return jnp.concatenate([lead, jnp.sqrt(jnp.maximum(rest, 0))], -1)


class Exact:
    """Exact search over unit rows [N, E], held on the device as float32."""

    def __init__(self, rows: np.ndarray, sample: np.ndarray | None = None, k: int = 8):
        """rows: of any float type, may be memory-mapped; sample: some of the queries [M, E], by which to choose D for
        `k` answers; None: all coordinates are used."""
        _, tile, _ = _sizes()
        parts = -(-len(rows) // _ROWS)
        self._size = -(-len(rows) // (parts * tile)) * tile
        self._counts = [len(rows[i : i + self._size]) for i in range(0, len(rows), self._size)]
        self._rows: list[Array] = [
            jnp.asarray(_filled(rows[i : i + self._size], self._size)).reshape(-1, tile, rows.shape[1])
            for i in range(0, len(rows), self._size)
        ]
        self._basis: np.ndarray | None = None
        self._leading: list[Array] = self._rows
        if sample is not None and len(sample) > 1:
            self._basis = self._choose(rows, np.asarray(sample, np.float32), k)
        if self._basis is not None:
            self._leading = [_leading(part, self._basis) for part in self._rows]

    @property
    def leading(self) -> int:
        """D, or E if no coordinate is left out at first."""
        return self._rows[0].shape[-1] if self._basis is None else self._basis.shape[1]

    def _choose(self, rows: np.ndarray, sample: np.ndarray, k: int) -> np.ndarray | None:
        """The leading directions [E, D] with which queries like `sample` cost least; None if all are best."""
        some = np.asarray(rows[:: -(-len(rows) // _ROWS)], np.float32)  # as many as are on the device at a time
        # Directions that hold most of both; judged by other queries than those that they were made of.
        seen, sample = sample[::2], sample[1::2]
        moments = some.T @ some / len(some) + seen.T @ seen / len(seen)
        directions = np.linalg.eigh(moments)[1][:, ::-1].astype(np.float32)
        sample = sample[:: -(-len(sample) // _SAMPLE)]
        worst = self.search(sample, k)[0][:, -1:]
        best, chosen = 1.0, None
        for share in _SHARES:
            basis = directions[:, : max(1, int(share * rows.shape[1]))]
            near = np.asarray(_leading(sample, basis)) @ np.asarray(_leading(some, basis)).T > worst
            # Some chunk has twice as many near rows as this one, and then more than can be looked into.
            cost = _OVERHEAD + share + np.mean(near.sum(1) > (k + _SPARE) / 2)
            if cost < best:
                best, chosen = cost, basis
        return chosen

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32 [M, K], falling; rows' numbers int64 [M, K]); -inf and -1 where there are fewer than K rows.

        Among equal scores any may come first.
        """
        queries = np.asarray(queries, np.float32)
        if self._basis is None:
            return self._pass(queries, queries, self._rows, k, k)[:2]
        leading = np.asarray(_leading(queries, self._basis))
        scores, ids, rest = self._pass(queries, leading, self._leading, k, k + _SPARE)
        again = np.flatnonzero(rest + _SLACK > scores[:, -1])
        if len(again):
            scores[again], ids[again], _ = self._pass(queries[again], queries[again], self._rows, k, k)
        return scores, ids

    def _pass(
        self, queries: np.ndarray, leading: np.ndarray, bounding: list[Array], k: int, blocks: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `_nearest`, for all queries and rows; bounding: of the rows, what `leading` [M, D] is of the queries."""
        most, _, gathered = _sizes()
        scores = np.full((len(queries), k), -np.inf, np.float32)
        ids, rest = np.full((len(queries), k), -1), np.full(len(queries), -np.inf, np.float32)
        start = 0
        while start < len(queries):
            # Powers of two, of which the last is filled up: few shapes to compile, and little to spare.
            batch = min(most, max(32, 1 << (len(queries) - start).bit_length() - 1))
            here = slice(start, start + batch)
            start += batch
            asked, lead = (jnp.asarray(_filled(x[here], batch)) for x in (queries, leading))
            for i, part in enumerate(self._rows):
                how = {"k": k, "blocks": min(blocks, self._size // _BLOCK), "gathered": gathered}
                out = _nearest(asked, part, (lead, bounding[i]), self._counts[i], **how)
                new, at, bound = (np.asarray(x)[: len(queries[here])] for x in out)
                at = np.where(np.isfinite(new), at + i * self._size, -1)
                new, at = np.concatenate([scores[here], new], 1), np.concatenate([ids[here], at], 1)
                order = np.argsort(-new, axis=1, kind="stable")[:, :k]
                scores[here], ids[here] = (np.take_along_axis(x, order, 1) for x in (new, at))
                rest[here] = np.maximum(rest[here], bound)
        return scores, ids, rest
