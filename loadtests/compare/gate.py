"""Two reports against each other: what has become worse beyond a tolerance and the noise."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.errors import ServingError

from ..rounds import Spread
from ..workload import Workload

_THROUGHPUT = "images/s"


class NotComparable(ServingError):
    """No report or plan of this kind, or of something else."""


@dataclass(frozen=True)
class Change:
    """One figure in both runs; `change` and `allowed` are shares, a positive change is better."""

    variant: str
    figure: str
    before: float
    now: float
    change: float
    allowed: float

    @property
    def worse(self) -> bool:
        """Beyond what is allowed."""
        return self.change < -self.allowed


def read_report(path: Path) -> dict[str, Any]:
    """An earlier run's report.json.

    Raises:
        NotComparable: it isn't one, is of an interrupted run, or of a version that this can't read.
    """
    report = read_json(path, "report", "comparison")
    if not report.get("complete"):
        raise NotComparable(f"{path}: the report of an interrupted run")
    try:
        changes(report, report, 0.0)
    except (KeyError, TypeError, ValueError, AttributeError) as fault:
        raise NotComparable(f"{path}: not a report of this version: {fault!r}") from None
    return report


def read_json(path: Path, kind: str, content: str) -> dict[str, Any]:
    """A report.json or plan.json, which says so of itself: `{kind: content, ...}`.

    Raises:
        NotComparable: it isn't one.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        if found[kind] != content:
            raise ValueError(f"{kind}: {found[kind]!r}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as fault:
        raise NotComparable(f"{path}: not a {kind}.json: {fault}") from None
    return found


def check_comparable(before: Mapping[str, Any], family: str, workload: Workload) -> None:
    """Whether a report, as JSON has it, is of what this run is about to measure.

    Raises:
        NotComparable: it measured another family, other steps, another size, guidance, seed or
            share of edits.
    """
    # Reports from before there were edits have none.
    measured = {"edits": 0.0, **before["design"]["workload"]}
    for name in ("num_inference_steps", "size", "guidance_scale", "seed", "edits"):
        old, new = measured[name], getattr(workload, name)
        new = list(new) if isinstance(new, tuple) else new
        if old != new:
            raise NotComparable(f"baseline: its workload has {name} {old}, this run's {new}")
    if before["endpoint"]["family"] != family:
        raise NotComparable(f"baseline: measured {before['endpoint']['family']}, this run {family}")


def changes(before: Mapping[str, Any], now: Mapping[str, Any], tolerance: float) -> list[Change]:
    """Every figure that both runs have, in comparable reports as JSON has them."""
    return [
        change
        for name, figures in now["variants"].items()
        if name in before["variants"]
        for change in _of_variant(name, before["variants"][name], figures, tolerance)
    ]


def _of_variant(
    name: str, before: Mapping[str, Any], now: Mapping[str, Any], tolerance: float
) -> Iterator[Change]:
    found_before = _spreads(before)
    for figure, new in _spreads(now).items():
        if old := found_before.get(figure):
            ratio = new.median / old.median
            gain = ratio - 1 if figure == _THROUGHPUT else 1 / ratio - 1
            allowed = tolerance + max(_noise(old), _noise(new))
            yield Change(name, figure, old.median, new.median, gain, allowed)
    met, missed = before["carried"]["met_per_s"], now["carried"]["missed_per_s"]
    if met and missed:
        # What was carried then and is missed now; a rate between is neither.
        carried = now["carried"]["met_per_s"] or missed
        gain = 0.0 if missed > met else carried / met - 1
        yield Change(name, "rate within the SLO", met, carried, gain, tolerance)


def _spreads(variant: Mapping[str, Any]) -> dict[str, Spread]:
    """What was measured of a variant in rounds; its throughput is the closed loop's best."""
    times = {"seed workload, s": variant["seed_workload_s"], "one picture, s": variant["single_s"]}
    found = {name: _spread(time) for name, time in times.items() if time}
    levels = [_spread(level["images_per_s"]) for level in variant["closed"]]
    if levels:
        found[_THROUGHPUT] = max(levels, key=lambda level: level.median)
    return found


def _spread(repeated: Mapping[str, Any]) -> Spread:
    return Spread.of(repeated["by_round"].values())


def _noise(rounds: Spread) -> float:
    """Half of the rounds' range, as a share of their median."""
    return (rounds.high - rounds.low) / 2 / rounds.median
