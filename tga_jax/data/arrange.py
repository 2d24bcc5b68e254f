"""Which samples of a window come together: in a batch, and in a row of it."""

import heapq

import numpy as np


def evenly(lengths: np.ndarray, count: int) -> np.ndarray:
    """int [S / count, count]: the S samples of these lengths in rows of `count`, all about as long; each sample once.

    The longest sample first, each goes to the row that is shortest so far and not full yet (Graham's longest processing
    time first, with as many jobs for each machine). Within a row and among rows that are equal the order is that of the
    samples, so that it is the same wherever it is computed.
    """
    rows: list[list[int]] = [[] for _ in range(len(lengths) // count)]
    open_rows = [(0, i) for i in range(len(rows))]  # total length so far, number; a heap
    for sample in np.argsort(-lengths, kind="stable"):
        total, i = heapq.heappop(open_rows)
        rows[i].append(int(sample))
        if len(rows[i]) < count:
            heapq.heappush(open_rows, (total + int(lengths[sample]), i))
    return np.sort(np.array(rows), axis=1)


def arranged(
    lengths: np.ndarray, pictured: np.ndarray, batches: int, pack: int, rng: np.random.Generator
) -> np.ndarray:
    """int [batches, S / batches]: the S samples of a window, each once, in batches whose rows are about as long.

    lengths: int [S], tokens; pictured: bool [S], whether there is an image: text-only samples come together if each
    sample has a row of its own; pack: samples that share a row, one behind the other in a batch; rng: of the batches'
    order.
    """
    if pack == 1:
        rows = np.lexsort((lengths, pictured))[:, None]
    else:
        rows = evenly(lengths, pack)
        rows = rows[np.argsort(lengths[rows].sum(1), kind="stable")]
    return rows.reshape(batches, -1)[rng.permutation(batches)]
