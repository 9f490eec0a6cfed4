"""What must hold: each bar met, missed, or not decided where the machine was busy. Pure."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

MOST_ADDED_MS = 10.0
LEAST_THROUGHPUT = 0.95
# Cores that others may use. What more they take, they take from both contenders, but not evenly.
MOST_OTHERS = 0.2
# Fewer quiet rounds decide nothing.
_ROUNDS = 3


@dataclass(frozen=True)
class Go:
    """One contender, measured once.

    `cpu_ms` are CPU milliseconds a request, by role; `others` and `load` as in `accounts.Usage`.
    """

    p50_ms: float
    per_s: float
    cpu_ms: Mapping[str, float]
    others: float
    load: float


@dataclass(frozen=True)
class Spread:
    """One figure in several rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Median, lowest and highest."""
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Bar:
    """`found` over the quiet rounds, or over all of them where those are too few."""

    name: str
    wanted: str
    found: Spread
    quiet: int
    rounds: int
    state: Literal["met", "missed", "not decided"]


def added_ms(service: Sequence[Go], engine: Sequence[Go]) -> list[float]:
    """What the service's p50 has more than the engine's, round by round."""
    return [one.p50_ms - other.p50_ms for one, other in zip(service, engine, strict=True)]


def throughput(service: Sequence[Go], engine: Sequence[Go]) -> list[float]:
    """The service's requests a second in the engine's, round by round."""
    return [one.per_s / other.per_s for one, other in zip(service, engine, strict=True)]


def quiet(*contenders: Sequence[Go]) -> list[bool]:
    """Which rounds nobody else disturbed."""
    return [
        all(one.others <= MOST_OTHERS for one in turn) for turn in zip(*contenders, strict=True)
    ]


def added_bar(service: Sequence[Go], engine: Sequence[Go]) -> Bar:
    """How much later a picture comes through HTTP, for one user."""
    name = "added to one user's p50, beyond encoding the picture"
    wanted = f"at most {MOST_ADDED_MS:g} ms"
    found = added_ms(service, engine)
    return _bar(name, wanted, found, quiet(service, engine), lambda ms: ms <= MOST_ADDED_MS)


def throughput_bar(service: Sequence[Go], engine: Sequence[Go]) -> Bar:
    """How much of the engine's throughput is left where its queue never runs empty."""
    name = "throughput at saturation, in the engine's own"
    wanted = f"at least {LEAST_THROUGHPUT:g}"
    found = throughput(service, engine)
    return _bar(name, wanted, found, quiet(service, engine), lambda x: x >= LEAST_THROUGHPUT)


def _bar(
    name: str,
    wanted: str,
    found: Sequence[float],
    calm: Sequence[bool],
    met: Callable[[float], bool],
) -> Bar:
    kept = [one for one, undisturbed in zip(found, calm, strict=True) if undisturbed]
    if len(kept) < _ROUNDS:
        return Bar(name, wanted, Spread.of(found), len(kept), len(found), "not decided")
    spread = Spread.of(kept)
    state: Literal["met", "missed"] = "met" if met(spread.median) else "missed"
    return Bar(name, wanted, spread, len(kept), len(found), state)
