"""Contenders in turn, round by round, and the spread of what they showed."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

NameT = TypeVar("NameT")


@dataclass(frozen=True)
class Spread:
    """One figure in several rounds."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Median, smallest and largest; of one value at least."""
        every = list(values)
        return cls(statistics.median(every), min(every), max(every), len(every))

    @classmethod
    def of_ratios(cls, numerators: Sequence[float], denominators: Sequence[float]) -> "Spread":
        """Of ratios within each round, so that what slows a whole round down cancels out."""
        return cls.of(above / below for above, below in zip(numerators, denominators, strict=True))

    def times(self, factor: float) -> "Spread":
        """In another unit."""
        return Spread(factor * self.median, factor * self.low, factor * self.high, self.count)

    def text(self, factor: float = 1, digits: int = 2) -> str:
        """`median (low to high)`, each times `factor`."""
        each = self.times(factor)
        return f"{each.median:.{digits}f} ({each.low:.{digits}f} to {each.high:.{digits}f})"


def rotated(names: Iterable[NameT], round_: int) -> list[NameT]:
    """The order of a round: another contender begins each time."""
    every = list(names)
    first = round_ % len(every)
    return [*every[first:], *every[:first]]
