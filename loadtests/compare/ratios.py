"""Figures that were measured in every round, and their ratios with the noise of the rounds."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from ..rounds import Spread

_CONFIDENCE = 0.95
# Two that happen to be equal would leave no interval at all.
_FEWEST_DIFFERENCES = 3

Outcome = Literal["better", "worse", "tie", "not decided"]


@dataclass(frozen=True)
class Repeated:
    """One figure by round."""

    by_round: Mapping[int, float]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.by_round.values())

    @property
    def spread(self) -> Spread:
        """Over the rounds."""
        return Spread.of(self.by_round.values())


@dataclass(frozen=True)
class Ratio:
    """How much better one variant is than another; over 1 means better.

    `low` and `high` bound the 95 % confidence interval of the mean, by Student's t over the
    logarithms; None from fewer than two rounds.
    """

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, more: Repeated, less: Repeated) -> "Ratio | None":
        """Within the rounds that both have: what slows a whole round down cancels out."""
        both = sorted(set(more.by_round) & set(less.by_round))
        if not both:
            return None
        logs = [math.log(more.by_round[round_] / less.by_round[round_]) for round_ in both]
        mean = statistics.fmean(logs)
        if len(logs) < 2:
            return cls(math.exp(mean), None, None)
        half = _half_width(logs)
        return cls(math.exp(mean), math.exp(mean - half), math.exp(mean + half))

    @property
    def outcome(self) -> Outcome:
        """A tie where the interval holds 1."""
        if self.low is None or self.high is None:
            return "not decided"
        if self.low > 1:
            return "better"
        return "worse" if self.high < 1 else "tie"

    @property
    def noise(self) -> float | None:
        """How far the interval reaches, as a share: a smaller difference is a tie."""
        return None if self.high is None else self.high / self.value - 1


@dataclass(frozen=True)
class Difference:
    """How much more a contender has than another, where a ratio may divide by zero; over 0 is more.

    `low` and `high` bound the 95 % confidence interval of the mean, by Student's t; None from fewer
    than three rounds.
    """

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, ours: Repeated, theirs: Repeated) -> "Difference | None":
        """Within the rounds that both have."""
        both = sorted(set(ours.by_round) & set(theirs.by_round))
        if not both:
            return None
        differences = [ours.by_round[round_] - theirs.by_round[round_] for round_ in both]
        mean = statistics.fmean(differences)
        if len(differences) < _FEWEST_DIFFERENCES:
            return cls(mean, None, None)
        half = _half_width(differences)
        return cls(mean, mean - half, mean + half)

    @property
    def outcome(self) -> Outcome:
        """A tie where the interval holds 0."""
        if self.low is None or self.high is None:
            return "not decided"
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "tie"


def _half_width(values: list[float]) -> float:
    """Of the mean's confidence interval; from two values at least."""
    error = statistics.stdev(values) / math.sqrt(len(values))
    return float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1)) * error
