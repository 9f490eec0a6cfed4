"""Figures that were measured in every round, and their ratios with the noise of the rounds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from scipy import stats

from ..rounds import Spread

_CONFIDENCE = 0.95

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

    def beside(self, other: "Repeated") -> list[tuple[float, float]]:
        """Both figures of each round that both have: what slows a whole round down cancels out."""
        both = sorted(self.by_round.keys() & other.by_round.keys())
        return [(self.by_round[round_], other.by_round[round_]) for round_ in both]


@dataclass(frozen=True)
class _Mean:
    """Over rounds; `low` and `high` bound its 95 % confidence interval, by Student's t."""

    value: float
    low: float | None
    high: float | None
    equal: ClassVar[float]

    @property
    def outcome(self) -> Outcome:
        """A tie where the interval holds what equals would have."""
        if self.low is None or self.high is None:
            return "not decided"
        if self.low > self.equal:
            return "better"
        return "worse" if self.high < self.equal else "tie"

    def interval(self, sign: Literal["", "+"] = "") -> str:
        """`low to high`; empty from too few rounds."""
        if self.low is None or self.high is None:
            return ""
        return f"{self.low:{sign}.2f} to {self.high:{sign}.2f}"


class Ratio(_Mean):
    """How much better one variant is than another; over 1 means better.

    The interval is that of the logarithms; it takes two rounds.
    """

    equal = 1.0

    @classmethod
    def of(cls, more: Repeated, less: Repeated) -> Self | None:
        """Of the rounds that both have; None where there is none."""
        logs = [math.log(above / below) for above, below in more.beside(less)]
        if not logs:
            return None
        mean = statistics.fmean(logs)
        if len(logs) < 2:
            return cls(math.exp(mean), None, None)
        half = _half_width(logs)
        return cls(math.exp(mean), math.exp(mean - half), math.exp(mean + half))

    @property
    def noise(self) -> float | None:
        """How far the interval reaches, as a share: a smaller difference is a tie."""
        return None if self.high is None else self.high / self.value - 1


class Difference(_Mean):
    """How much more a contender has than another, where a ratio may divide by zero; over 0 is more.

    The interval takes three rounds: two that happen to be equal would leave none at all.
    """

    equal = 0.0

    @classmethod
    def of(cls, ours: Repeated, theirs: Repeated) -> Self | None:
        """Of the rounds that both have; None where there is none."""
        differences = [our - their for our, their in ours.beside(theirs)]
        if not differences:
            return None
        mean = statistics.fmean(differences)
        if len(differences) < 3:
            return cls(mean, None, None)
        half = _half_width(differences)
        return cls(mean, mean - half, mean + half)


def _half_width(values: Sequence[float]) -> float:
    """Of the mean's confidence interval; from two values at least."""
    error = statistics.stdev(values) / math.sqrt(len(values))
    return float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1)) * error
