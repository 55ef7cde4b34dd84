"""Compute the confidence interval of an accuracy from the number of photographs behind it."""

import math
from typing import Final

_Z: Final = 1.959964  # quantile of the normal distribution for 95 %


def wilson(share: float, count: int) -> tuple[float, float]:
    """Compute the 95 % confidence interval of a share of `count` observations (Wilson, 1927)."""
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z * math.sqrt(share * (1 - share) / count + (_Z / (2 * count)) ** 2) / (1 + _Z**2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


def with_interval(share: float, count: int) -> str:
    """Format an accuracy as "92.5 % (80 to 97 %, 40 photographs)"; `share` is 0 to 1."""
    low, high = (100 * bound for bound in wilson(share, count))
    digits = 0 if high - low >= 2 else 1 if high - low >= 0.2 else 2
    return f"{100 * share:.1f} % ({low:.{digits}f} to {high:.{digits}f} %, {count:,} photographs)"
