"""Which rate to try next: pure functions of what has been found."""

import math
from collections.abc import Callable, Collection

import numpy as np
from scipy.optimize import brentq

from .design import NARROW, Design
from .findings import VariantFindings

# What is left to try once the search has ended, to draw the curve: shares of the capacity.
_CURVE = (0.3, 1.0, 0.5, 0.7)
_SHARE_OVER_P95 = 0.05


Pick = Callable[[Design, VariantFindings, float], float]
"""The next rate for a variant, of which so much is found, under an SLO; 0 where there is none."""


def for_the_search(design: Design, found: VariantFindings, slo_s: float) -> float:
    """The next rate, or once more the one whose run was void."""
    if found.images_per_s is None or found.single_s is None:
        return 0.0
    for rung in found.rungs:
        if rung.slo == "not decided":
            retry = rung.void and rung.requests <= design.samples_a_rate
            return rung.rate_per_s if retry else 0.0
    met = [rung.rate_per_s for rung in found.rungs if rung.slo == "met"]
    missed = [rung.rate_per_s for rung in found.rungs if rung.slo == "missed"]
    return next_rate(first_rate(found.images_per_s, found.single_s.median, slo_s), met, missed)


def for_the_curve(design: Design, found: VariantFindings, _: float) -> float:
    """A rate far from those tried, as long as there are few."""
    tried = [rung.rate_per_s for rung in found.rungs]
    if found.images_per_s is None or len(tried) >= design.most_rates:
        return 0.0
    for share in _CURVE:
        rate = share * found.images_per_s
        if all(not 1 / NARROW < rate / earlier < NARROW for earlier in tried):
            return rate
    return 0.0


def first_rate(capacity_per_s: float, single_s: float, slo_s: float) -> float:
    """Where a queue with random arrivals and even work (M/D/1) has its p95 at the SLO.

    The wait's tail is Cramer and Lundberg's approximation: P(W > t) = C exp(-h t) with t in units
    of the work, where h solves load (exp(h) - 1) = h and C = (1 - load) / (load exp(h) - 1).

    One user's time is taken for the work.
    """
    wait = slo_s / single_s - 1
    loads = [float(load) for load in np.arange(0.05, 0.98, 0.0025)]
    fast = [load for load in loads if _waits_longer(load, wait) <= _SHARE_OVER_P95]
    return max(fast, default=loads[0]) * capacity_per_s


def _waits_longer(load: float, wait: float) -> float:
    """The share of requests that wait longer, in units of the work."""
    decay = brentq(lambda h: load * math.expm1(h) - h, 1e-6, 20.0)
    return float((1 - load) / (load * math.exp(decay) - 1) * math.exp(-decay * wait))


def next_rate(first_per_s: float, met: Collection[float], missed: Collection[float]) -> float:
    """The rate that tells most about the highest one that meets the SLO; 0 where it is found.

    Steps away from the first rate double until one has met the SLO and one has missed it; then
    their geometric mean is next.
    """
    if met and missed:
        low, high = max(met), min(missed)
        return math.sqrt(low * high) if high > 1.001 * NARROW * low else 0.0
    if met:
        return float(max(met) * NARROW ** (2 ** (len(met) - 1)))
    if missed:
        return float(min(missed) / NARROW ** (2 ** (len(missed) - 1)))
    return first_per_s
