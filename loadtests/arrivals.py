"""When requests are sent: decided before the run, so that no answer can change it."""

import csv
import math
import random
from pathlib import Path


def poisson(rate_per_s: float, duration_s: float, seed: int = 0) -> list[float]:
    """Seconds from the start, with exponential gaps: users who don't know of each other."""
    drawn = random.Random(seed)
    arrivals, at_s = [], drawn.expovariate(rate_per_s)
    while at_s < duration_s:
        arrivals.append(at_s)
        at_s += drawn.expovariate(rate_per_s)
    return arrivals


def poisson_of(requests: int, rate_per_s: float, seed: int = 0) -> list[float]:
    """A Poisson process, given that it brings so many requests: exactly that rate, random gaps.

    Given their number, the arrivals of a Poisson process lie evenly at random in their time.
    """
    drawn = random.Random(seed)
    return sorted(drawn.uniform(0, requests / rate_per_s) for _ in range(requests))


def constant(rate_per_s: float, duration_s: float) -> list[float]:
    """Seconds from the start, evenly spaced."""
    return [index / rate_per_s for index in range(math.ceil(rate_per_s * duration_s))]


def trace(path: Path) -> list[float]:
    """Seconds from the start, from a CSV file with a column `arrival_s`; the first becomes 0.

    Raises:
        ValueError: names the line that holds no finite number, or the missing column, or says that
            it is no CSV file in UTF-8.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            arrivals = _arrivals(csv.DictReader(lines, skipinitialspace=True), path)
    except (csv.Error, UnicodeDecodeError) as fault:
        raise ValueError(f"{path}: is no CSV file in UTF-8: {fault}") from None
    if not arrivals:
        raise ValueError(f"{path}: holds no arrivals")
    arrivals.sort()
    return [at_s - arrivals[0] for at_s in arrivals]


def _arrivals(rows: "csv.DictReader[str]", path: Path) -> list[float]:
    if "arrival_s" not in (rows.fieldnames or ()):
        raise ValueError(f"{path}: has no column arrival_s")
    arrivals = []
    for row in rows:
        try:
            at_s = float(row["arrival_s"])
        except (TypeError, ValueError):
            at_s = math.nan
        if not math.isfinite(at_s):
            raise ValueError(f"{path}: line {rows.line_num}: {row['arrival_s']!r} is no number")
        arrivals.append(at_s)
    return arrivals
