"""Which rate to try next: pure functions of what has been found."""

from collections.abc import Collection
from math import sqrt

# Shares of a variant's closed-loop throughput. A queue with random arrivals and even work has its
# p95 at three times the work near 0.65; the climb begins there.
_LADDER = (0.2, 0.35, 0.5, 0.7, 0.85, 1.0, 1.15)
_BEGIN = 0.7
# What is left to try once the search has ended, to draw the curve.
_CURVE = (0.5, 1.0, 0.3)
# The search ends when the lowest rate that missed is within this factor of the highest that met.
_NARROW = 1.12


def next_rate(capacity_per_s: float, met: Collection[float], missed: Collection[float]) -> float:
    """The rate that tells most about the highest one that meets the SLO; 0 where it is found.

    Args:
        capacity_per_s: the most that a closed loop has got.
        met: rates that met the SLO, per second.
        missed: rates that missed it, all above those.
    """
    ladder = [share * capacity_per_s for share in _LADDER]
    if met and missed:
        low, high = max(met), min(missed)
        return sqrt(low * high) if high > _NARROW * low else 0.0
    if met:
        return next((rate for rate in ladder if rate > 1.01 * max(met)), 0.0)
    if missed:
        return next((rate for rate in reversed(ladder) if rate < 0.99 * min(missed)), 0.0)
    return _BEGIN * capacity_per_s


def next_for_the_curve(capacity_per_s: float, tried: Collection[float]) -> float:
    """A rate far from those tried; 0 where there is none left."""
    for share in _CURVE:
        rate = share * capacity_per_s
        if all(not 1 / _NARROW < rate / one < _NARROW for one in tried):
            return rate
    return 0.0
