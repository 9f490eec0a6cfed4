"""Which rate to try next: pure functions of what has been found."""

import math
from collections.abc import Callable, Collection

import numpy as np

from .. import arrivals
from .design import DECIDING_SAMPLES, NARROW, OPEN_ROUNDS, Design, most_misses
from .findings import VariantFindings
from .rungs import capacity_per_s

# What is left to try once the search has ended, to draw the curve: shares of the highest rate that
# met the SLO, of which the ones that take less time come first.
_CURVE = (0.75, 0.5, 0.25)

# So many runs of a variant may be void, their requests fired late by a busy machine.
MOST_VOID = 3
_BESIDE = 0.99


Pick = Callable[[Design, VariantFindings, float], float]
"""The next rate for a variant, of which so much is found, under an SLO; 0 where there is none."""


def for_the_search(design: Design, found: VariantFindings, slo_s: float) -> float:
    """The next rate, close to the one whose run was void if there was one."""
    if found.images_per_s is None or found.single_s is None:
        return 0.0
    voids = sum(bool(rung.void) for rung in found.rungs)
    if voids > MOST_VOID or any(it.slo == "not decided" and not it.void for it in found.rungs):
        return 0.0
    met = [rung.rate_per_s for rung in found.rungs if rung.slo == "met"]
    missed = [rung.rate_per_s for rung in found.rungs if rung.slo == "missed"]
    # Higher ones would only show how far a lax SLO outlasts a run.
    if max(met, default=0.0) > NARROW * capacity_per_s(found.images_per_s, found.rungs):
        return 0.0
    first = first_rate(found.images_per_s, found.single_s.median, slo_s)
    # Not the same rate again: what it has missed until it was void would count.
    return next_rate(first, met, missed) * _BESIDE**voids


def for_the_curve(design: Design, found: VariantFindings, _: float) -> float:
    """A rate within the SLO far from those tried, as long as there are few."""
    tried = [rung.rate_per_s for rung in found.rungs]
    if found.carried.met_per_s is None or len(tried) >= design.most_rates:
        return 0.0
    for share in _CURVE:
        rate = share * found.carried.met_per_s
        if all(not 1 / NARROW < rate / earlier < NARROW for earlier in tried):
            return rate
    return 0.0


def first_rate(capacity_per_s: float, single_s: float, slo_s: float) -> float:
    """The highest rate at which a queue with even work would have the runs' p95 within the SLO.

    It serves the arrivals of the runs themselves, one after another: a hundred requests that begin
    with an empty queue wait less than in the long run.
    """
    work_s, most = 1 / capacity_per_s, most_misses(DECIDING_SAMPLES)
    # Below the capacity: beyond it a run under a lax SLO ends before its queue has grown too long.
    rates = [float(load) * capacity_per_s for load in np.arange(0.05, 0.98, 0.0025)]
    kept = [rate for rate in rates if _misses(rate, work_s, slo_s - single_s) <= most]
    return max(kept, default=rates[0])


def _misses(rate_per_s: float, work_s: float, most_wait_s: float) -> int:
    """How many of a deciding number of requests would wait longer."""
    requests, missed = DECIDING_SAMPLES // OPEN_ROUNDS, 0
    for round_ in range(OPEN_ROUNDS):
        free_s = 0.0
        for at_s in arrivals.poisson_of(requests, rate_per_s, seed=round_ * requests):
            missed += max(0.0, free_s - at_s) > most_wait_s
            free_s = max(free_s, at_s) + work_s
    return missed


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
