"""A share of successes with its Wilson score interval (Wilson 1927), the form in which every rate is reported, and the
bootstrap for means that are no shares."""

import dataclasses
import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


@dataclasses.dataclass(frozen=True)
class Rate:
    """A share of `n` trials and the ends of its confidence interval, 0 <= low <= value <= high <= 1.

    `value` is None where nothing was tried (n = 0); the interval is then all of [0, 1].
    """

    value: float | None
    low: float
    high: float
    n: int

    def to_json(self) -> dict[str, float | int | None]:
        """{"value", "low", "high", "n"}; a value of None becomes null, never NaN, which JSON does not have."""
        return dataclasses.asdict(self)


def wilson(successes: int, n: int, confidence: float = 0.95) -> Rate:
    """The share successes / n with its two-sided Wilson score interval, without continuity correction.

    Unlike the textbook interval p +- z sqrt(p (1 - p) / n), it stays inside [0, 1] and does not shrink to nothing at
    0 or n successes, which is where refusal rates tend to be.

    Raises:
      ValueError: unless 0 <= successes <= n and 0 < confidence < 1.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n, got successes={successes}, n={n}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    if n == 0:
        return Rate(None, 0.0, 1.0, 0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    shrink = 1 + z * z / n
    center = (p + z * z / (2 * n)) / shrink
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / shrink
    # In exact arithmetic low <= p <= high, and an end is 0 or 1 with p; rounding may miss that by one ulp.
    return Rate(p, max(0.0, min(p, center - half)), min(1.0, max(p, center + half)), n)


def mean_rate(values: Sequence[float], seed: int = 0) -> Rate:
    """The mean of values from 0 to 1: with Wilson's interval if all are 0 or 1, else with a percentile bootstrap's."""
    if all(value in (0, 1) for value in values):
        return wilson(int(sum(values)), len(values))
    x = np.asarray(values, np.float64)
    low, high = np.quantile(_resampled(x, seed), (0.025, 0.975))
    return Rate(float(x.mean()), float(min(low, x.mean())), float(max(high, x.mean())), len(x))


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """(mean of b - a, low, high): a 95 % percentile bootstrap over the pairs (Efron and Tibshirani, 1993).

    Raises:
      ValueError: for unequal numbers of values, or none.
    """
    if len(a) != len(b) or not len(a):
        raise ValueError(f"expected pairs, got {len(a)} and {len(b)} values")
    x = np.asarray(b, np.float64) - np.asarray(a, np.float64)
    low, high = np.quantile(_resampled(x, seed), (0.025, 0.975))
    return float(x.mean()), float(low), float(high)


_BLOCK = 1_000_000  # numbers that are drawn at a time


def _resampled(x: np.ndarray, seed: int, count: int = 10_000) -> np.ndarray:
    """Means of `count` resamples of x with replacement."""
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK // len(x))
    parts = [x[rng.integers(0, len(x), (min(step, count - i), len(x)))].mean(1) for i in range(0, count, step)]
    return np.concatenate(parts)
