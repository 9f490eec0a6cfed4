"""The engine under load, by wall clock: its policies under the same arrivals.

Requests are of 10, 25 or 50 steps, as many of each. Loads are shares of what policy `batch` draws
from a queue that is always full, in the same run. In a round every policy gets the same arrivals;
another round has others.
"""

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from serve.engine.forecast import Pace
from serve.engine.loop import Engine, Settings
from serve.engine.observer import Observer
from serve.engine.slots import Policy
from serve.generation import Generation
from serve.pipelines.trajectories import unet_calls

from ...arrivals import poisson_of
from ...published import PROMPT
from ...rounds import Spread, rotated
from ...samples import percentile
from .contenders import Ours

POLICIES: tuple[Policy, ...] = ("batch", "step")
STEPS_MIX = 10, 25, 50


class FullQueue(Observer):
    """Counts images' UNet calls from the first admission to the last, while others wait."""

    def __init__(self, jobs: int) -> None:
        self.full = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._jobs, self._admitted, self._calls, self._started_at = jobs, 0, 0, 0.0
        self.calls_per_s = 0.0

    def called(self, images: int, seconds: float | None) -> None:
        """Count it."""
        self._calls += images

    def admitted(self, job: Any, queue_s: float) -> None:
        """The first job only fills the queue: see `capacity_per_s`."""
        now = time.perf_counter()
        self._admitted += 1
        if self._admitted == 2:
            self._started_at, self._calls = now, 0
        elif self._admitted == self._jobs:
            self.calls_per_s = self._calls / (now - self._started_at)
            self._loop.call_soon_threadsafe(self.full.set)


def shuffled_steps(count: int, seed: int) -> list[int]:
    """So many step counts, each as often as the others, in random order."""
    repeated = [STEPS_MIX[index % len(STEPS_MIX)] for index in range(count)]
    random.Random(seed).shuffle(repeated)
    return repeated


def poisson_requests(
    ours: Ours, requests: int, rate_per_s: float, seed: int
) -> list[tuple[float, Generation]]:
    """Requests of one image and when they are due: the same for the same seed."""
    return [
        (at_s, ours.variant.generation(PROMPT, [index], steps))
        for index, (at_s, steps) in enumerate(
            zip(poisson_of(requests, rate_per_s, seed), shuffled_steps(requests, seed), strict=True)
        )
    ]


async def play(
    ours: Ours, settings: Settings, schedule: Sequence[tuple[float, Generation]]
) -> list[float]:
    """Submit every request when it is due, whatever has come back, to an engine of its own.

    Returns:
        Seconds from when each was due to its picture.
    """
    engine = Engine(ours.pipeline, settings, Pace(ours.call_s))
    started_at = time.perf_counter() + 0.02

    async def latency_s(at_s: float, generation: Generation) -> float:
        due_at = started_at + at_s
        await asyncio.sleep(due_at - time.perf_counter())
        ticket = engine.submit(generation)
        result = await ticket.result()
        # The engine's own time: when this loop gets round to look at the result doesn't matter.
        return ticket.submitted_at - due_at + result.seconds

    try:
        return await asyncio.gather(*(latency_s(at_s, asked) for at_s, asked in schedule))
    finally:
        engine.close()
        await engine.wait_closed()


async def capacity_per_s(ours: Ours, settings: Settings, steps: Sequence[int]) -> float:
    """Images a second of an engine whose queue is always full, with these step counts in turn.

    Counted in UNet calls over what an image of the mix takes, so that neither the run's end nor
    which images happen to be done by then matters. What is left in the end is cancelled.
    """
    observer = FullQueue(len(steps) + 1)
    engine = Engine(ours.pipeline, settings, Pace(ours.call_s), observer)
    try:
        # While this one is in its only call the others queue up, so that the first batch is full.
        tickets = [engine.submit(ours.variant.generation(PROMPT, [0], 1))]
        tickets += [
            engine.submit(ours.variant.generation(PROMPT, [seed], count))
            for seed, count in enumerate(steps)
        ]
        await observer.full.wait()
        for ticket in tickets:
            ticket.cancel()
    finally:
        engine.close()
        await engine.wait_closed()
    calls = statistics.fmean(unet_calls("pndm", count) for count in steps)
    return observer.calls_per_s / calls


async def compare_policies(
    ours: Ours,
    loads: Sequence[float],
    requests: int,
    rounds: int,
    progress: Callable[[str], object],
) -> dict[str, Any]:
    """The capacity of each policy, then every load with so many requests a round; as plain data."""
    settings = {policy: replace(ours.settings, policy=policy) for policy in POLICIES}
    progress("  from a full queue ...")
    rates: dict[str, list[float]] = {policy: [] for policy in POLICIES}
    for round_ in range(rounds):
        # Two whole batches, and a third that waits.
        steps = shuffled_steps(max(3 * ours.settings.cap, 4), round_)
        for policy in rotated(POLICIES, round_):
            rates[policy].append(await capacity_per_s(ours, settings[policy], steps))
    found: dict[str, Any] = {
        "variant": ours.variant.name,
        "cap": ours.settings.cap,
        "requests": requests,
        "rounds": rounds,
        "images_per_s": {policy: asdict(Spread.of(rates[policy])) for policy in POLICIES},
        "step_against_batch": asdict(Spread.of_ratios(rates["step"], rates["batch"])),
        "loads": [],
    }
    for load in loads:
        progress(f"  at {load:.0%} load ...")
        rate_per_s = load * found["images_per_s"]["batch"]["median"]
        latencies: dict[str, list[list[float]]] = {policy: [] for policy in POLICIES}
        for round_ in range(rounds):
            schedule = poisson_requests(ours, requests, rate_per_s, round_)
            for policy in rotated(POLICIES, round_):
                latencies[policy].append(await play(ours, settings[policy], schedule))
        figures = _figures(latencies)
        found["loads"].append({"load": load, "rate_per_s": rate_per_s, "policies": figures})
    return found


def _figures(latencies: dict[str, list[list[float]]]) -> dict[str, Any]:
    means = {policy: list(map(statistics.fmean, rounds)) for policy, rounds in latencies.items()}
    return {
        policy: {
            "mean_s": asdict(Spread.of(means[policy])),
            "mean_against_batch": asdict(Spread.of_ratios(means[policy], means["batch"])),
            **{
                f"p{percent}_s": percentile(list(itertools.chain(*rounds)), percent)
                for percent in (50, 95)
            },
            "latencies_s": rounds,
        }
        for policy, rounds in latencies.items()
    }
