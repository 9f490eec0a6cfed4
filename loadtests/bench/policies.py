"""The engine's policies against each other, under the same arrivals, by wall clock.

Loads are shares of what policy `batch` draws from a queue that is always full, in the same run and
with the same mix of step counts. Within a repeat every policy gets the same arrivals, one after the
other and in another order each time; another repeat has other arrivals.
"""

import asyncio
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from serve.engine.forecast import Pace
from serve.engine.slots import Policy

from ..samples import percentile
from .contenders import Ours
from .timing import Spread, ratios, turns
from .traffic import (
    MIXED,
    UNIFORM,
    Arrival,
    Calls,
    Played,
    play,
    poisson_arrivals,
    saturate,
    shuffled,
)

POLICIES: tuple[Policy, ...] = ("serial", "batch", "step")
MIXES = {"mixed": MIXED, "uniform": UNIFORM}
# A queue that gets more than this of what it can serve has no mean to speak of.
_STABLE = 0.95


@dataclass(frozen=True)
class Cell:
    """One kind of traffic: a mix of step counts, a load, and requests in one repeat."""

    mix: str
    load: float
    requests: int


@dataclass(frozen=True)
class Traffic:
    """What to play, and how often."""

    cells: tuple[Cell, ...]
    repeats: int


def compare_policies(
    ours: Ours, traffic: Traffic, tell: Callable[[str], object]
) -> tuple[dict[str, Any], Calls]:
    """Saturation, then every cell; as plain data, with all calls that the engines made."""
    return asyncio.run(_compare(ours, traffic, tell))


async def _compare(
    ours: Ours, traffic: Traffic, tell: Callable[[str], object]
) -> tuple[dict[str, Any], Calls]:
    heard = Calls()
    saturation = {}
    for mix in dict.fromkeys(cell.mix for cell in traffic.cells):
        tell(f"  saturation with {mix} steps ...")
        saturation[mix] = await _saturation(ours, MIXES[mix], traffic.repeats)
    cells = []
    for cell in traffic.cells:
        tell(f"  {cell.mix} steps at {cell.load:.0%} load ...")
        cells.append(await _cell(ours, cell, saturation[cell.mix], traffic.repeats, heard))
    return {
        "variant": ours.variant.name,
        "cap": ours.settings.cap,
        "decode_beside": ours.settings.decode_beside,
        "repeats": traffic.repeats,
        "saturation": saturation,
        "cells": cells,
    }, heard


async def _saturation(ours: Ours, mix: Sequence[int], repeats: int) -> dict[str, Any]:
    rates: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    for repeat, order in enumerate(turns(POLICIES, repeats)):
        for policy in order:
            # Two whole batches, and a third that waits; one after another fewer will do.
            images = 3 * ours.settings.cap if policy != "serial" else 7
            settings = replace(ours.settings, policy=policy)
            steps = shuffled(mix, max(images, 4), repeat)
            rates[policy].append(await saturate(ours, settings, steps))
    return {
        "images_per_s": {policy: asdict(Spread.of(found)) for policy, found in rates.items()},
        "step_against_batch": asdict(ratios(rates["step"], rates["batch"])),
    }


async def _cell(
    ours: Ours, cell: Cell, saturation: dict[str, Any], repeats: int, heard: Calls
) -> dict[str, Any]:
    most = {policy: one["median"] for policy, one in saturation["images_per_s"].items()}
    rate_per_s = cell.load * most["batch"]
    stable = [one for one in POLICIES if rate_per_s <= _STABLE * most[one] or one != "serial"]
    runs: dict[str, list[Played]] = {policy: [] for policy in stable}
    arrivals: list[list[Arrival]] = []
    for repeat, order in enumerate(turns(stable, repeats)):
        arrivals.append(
            poisson_arrivals(ours, MIXES[cell.mix], cell.requests, rate_per_s, seed=repeat)
        )
        for policy in order:
            played = await play(ours, replace(ours.settings, policy=policy), arrivals[-1])
            runs[policy].append(played)
            _collect(heard, played.calls)
    return {
        **asdict(cell),
        "rate_per_s": rate_per_s,
        "arrivals": [[(round(one.at_s, 5), one.calls) for one in repeat] for repeat in arrivals],
        "policies": {
            policy: _figures(played, Pace(ours.call_s)) for policy, played in runs.items()
        },
        "mean_against_batch": {
            policy: asdict(ratios(_means(runs[policy]), _means(runs["batch"])))
            for policy in stable
            if policy != "batch"
        },
        "left_out": {
            policy: f"the rate is {rate_per_s / most[policy]:.0%} of what it can serve"
            for policy in POLICIES
            if policy not in stable
        },
    }


def _figures(runs: Sequence[Played], sweep: Pace) -> dict[str, Any]:
    latencies = [one.latency_s for run in runs for one in run.served]
    return {
        "requests": len(latencies),
        "mean_s": asdict(Spread.of(_means(runs))),
        **{f"p{percent}_s": percentile(latencies, percent) for percent in (50, 95, 99)},
        "images_per_s": asdict(Spread.of([run.images_per_s for run in runs])),
        "calls_against_sweep": asdict(Spread.of([_stretch(run.calls, sweep) for run in runs])),
        "most_late_s": max(one.fired_late_s for run in runs for one in run.served),
        "samples": [
            [
                tuple(round(one, 5) for one in (it.latency_s, it.fired_late_s, it.forecast_s))
                for it in run.served
            ]
            for run in runs
        ],
    }


def _means(runs: Sequence[Played]) -> list[float]:
    return [statistics.fmean(one.latency_s for one in run.served) for run in runs]


def _stretch(calls: Calls, sweep: Pace) -> float:
    """How long a run's calls took, in what they took in the start-up sweep."""
    took_s = sum(sum(seconds) for seconds in calls.call_s.values())
    swept_s = sum(len(seconds) * sweep.call_s(images) for images, seconds in calls.call_s.items())
    return took_s / swept_s


def _collect(heard: Calls, calls: Calls) -> None:
    for images, seconds in calls.call_s.items():
        heard.call_s[images] += seconds
    heard.decode_s += calls.decode_s


def forecast_errors(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How long requests took, in forecasts of it: policy `step`, which the forecast plays."""
    errors = []
    for cell in cells:
        samples = [one for run in cell["policies"]["step"]["samples"] for one in run]
        shares = [(latency - late) / forecast for latency, late, forecast in samples if forecast]
        errors.append(
            {
                "mix": cell["mix"],
                "load": cell["load"],
                "requests": len(shares),
                **{f"p{percent}": percentile(shares, percent) for percent in (10, 50, 90)},
                "worst": max(shares, key=lambda share: abs(share - 1)),
                "mean_error_s": statistics.fmean(
                    abs(latency - late - forecast) for latency, late, forecast in samples
                ),
            }
        )
    return errors
