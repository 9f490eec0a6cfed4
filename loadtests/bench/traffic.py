"""Requests played against an engine: at scheduled instants, or from a queue that is always full.

An engine works by wall clock, so this does, too, on a CPU as on a GPU.
"""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from serve.engine.forecast import Pace
from serve.engine.loop import Engine, Settings
from serve.engine.observer import Observer
from serve.generation import Generation
from serve.pipelines.trajectories import unet_calls

from ..arrivals import poisson_of
from ..published import PROMPT
from .contenders import Ours

MIXED, UNIFORM = (10, 25, 50), (25,)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request, and when it is due."""

    at_s: float
    generation: Generation

    @property
    def calls(self) -> int:
        """Its UNet calls."""
        return unet_calls(self.generation.scheduler, self.generation.num_inference_steps)


def shuffled(steps: Sequence[int], count: int, seed: int) -> list[int]:
    """So many step counts, each as often as the others, in random order."""
    drawn = random.Random(seed)
    repeated = [steps[index % len(steps)] for index in range(count)]
    drawn.shuffle(repeated)
    return repeated


def jobs(ours: Ours, steps: Sequence[int]) -> list[Generation]:
    """One request of one image for each step count, seeds counted from 0."""
    return [ours.generation(PROMPT, [seed], one) for seed, one in enumerate(steps)]


def poisson_arrivals(
    ours: Ours, steps: Sequence[int], requests: int, rate_per_s: float, seed: int
) -> list[Arrival]:
    """The same for the same seed."""
    chosen = jobs(ours, shuffled(steps, requests, seed))
    instants = poisson_of(requests, rate_per_s, seed)
    return [Arrival(at_s, job) for at_s, job in zip(instants, chosen, strict=True)]


class Calls(Observer):
    """Hears an engine's calls and decodes: seconds by images in them."""

    def __init__(self) -> None:
        self.call_s: dict[int, list[float]] = defaultdict(list)
        self.decode_s: list[float] = []
        self.preview_s: list[float] = []
        self.previews_skipped = 0

    def called(self, images: int, seconds: float | None) -> None:
        """Keep it."""
        if seconds is not None:
            self.call_s[images].append(seconds)

    def decoded(self, images: int, seconds: float) -> None:
        """Keep what one of them took."""
        self.decode_s += [seconds / images] * images

    def previewed(self, job: Any, seconds: float, first_after_s: float | None) -> None:
        """Keep it."""
        self.preview_s.append(seconds)

    def preview_skipped(self) -> None:
        """Count it."""
        self.previews_skipped += 1


class Window(Calls):
    """Also counts the UNet calls of images while others wait for a slot."""

    def __init__(self) -> None:
        super().__init__()
        self.engine: Engine[Any, Any] | None = None
        self.full = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._began_at: float | None = None
        self._last_at, self._done = 0.0, 0
        self.elapsed_s, self.done = 0.0, 0

    def called(self, images: int, seconds: float | None) -> None:
        """Count from the first call with others waiting to the last one."""
        super().called(images, seconds)
        waiting = self.engine is not None and self.engine.occupied[1] > 0
        now = time.perf_counter()
        if self._began_at is None:
            if waiting:
                self._began_at = now
        elif not waiting and not self.elapsed_s:
            self.elapsed_s, self.done = self._last_at - self._began_at, self._done
            self._loop.call_soon_threadsafe(self.full.set)
        else:
            self._done += images
        self._last_at = now


@dataclass(frozen=True, slots=True)
class Served:
    """One request as it went: seconds from when it was due to its last picture.

    `fired_late_s` is a part of that. The forecast was made when it was submitted.
    """

    latency_s: float
    fired_late_s: float
    forecast_s: float


@dataclass(frozen=True)
class Played:
    """A run of arrivals; `images_per_s` is from the first arrival to the last picture."""

    served: list[Served]
    images_per_s: float
    calls: Calls = field(repr=False)


async def play(ours: Ours, settings: Settings, arrivals: Sequence[Arrival]) -> Played:
    """Submit every request when it is due, whatever has come back, to an engine of its own."""
    calls = Calls()
    engine = Engine(ours.pipeline, settings, Pace(ours.call_s), calls)
    started_at = time.perf_counter() + 0.02

    async def serve(arrival: Arrival) -> Served:
        due_at = started_at + arrival.at_s
        await asyncio.sleep(due_at - time.perf_counter())
        forecast_s = engine.forecast(arrival.generation).finish_s
        ticket = engine.submit(arrival.generation)
        result = await ticket.result()
        # The engine's own times: when this loop gets round to look at the result doesn't matter.
        took_s = result.queue_s + result.denoise_s + result.decode_s
        late_s = ticket.submitted_at - due_at
        return Served(late_s + took_s, late_s, forecast_s)

    try:
        served = await asyncio.gather(*map(serve, arrivals))
    finally:
        await closed(engine)
    ended_s = max(one.at_s + it.latency_s for one, it in zip(arrivals, served, strict=True))
    return Played(served, len(arrivals) / (ended_s - arrivals[0].at_s), calls)


async def saturate(ours: Ours, settings: Settings, steps: Sequence[int]) -> float:
    """Images a second of an engine whose queue is always full, with these step counts in turn.

    Counted as `simulation.saturation_per_s` does. What is left in the end is cancelled.
    """
    window = Window()
    engine = window.engine = Engine(ours.pipeline, settings, Pace(ours.call_s), window)
    asked = jobs(ours, steps)
    calls = [unet_calls(one.scheduler, one.num_inference_steps) for one in asked]
    try:
        # While this one is in its only call the others queue up, so that the first batch is full.
        tickets = [engine.submit(ours.generation(PROMPT, [0], 1))]
        tickets += [engine.submit(one) for one in asked]
        await window.full.wait()
        for ticket in tickets:
            ticket.cancel()
    finally:
        await closed(engine)
    return window.done / window.elapsed_s * len(calls) / sum(calls)


async def closed(engine: Engine[Any, Any]) -> None:
    """Close it, and wait until its threads have ended."""
    engine.close()
    await engine.wait_closed()
