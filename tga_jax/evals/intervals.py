"""A share of successes with its Wilson score interval (Wilson 1927), the form in which every rate is reported."""

import dataclasses
import math
from statistics import NormalDist


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
    low = 0.0 if successes == 0 else max(0.0, min(p, center - half))
    high = 1.0 if successes == n else min(1.0, max(p, center + half))
    return Rate(p, low, high, n)
