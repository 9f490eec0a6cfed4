"""What goes on beside the steps: decoding, previews, and how soon a cancelled image is gone."""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from serve.engine.denoiser import Denoiser
from serve.engine.forecast import Pace
from serve.engine.loop import Engine
from serve.generation import Generation, Plan
from serve.pipelines.pipeline import Pipeline
from serve.pipelines.trajectories import Trajectory

from ..published import PROMPT, STEPS
from .contenders import Ours
from .timing import Clock, Spread, ratios, turns
from .traffic import UNIFORM, Calls, closed, play, poisson_arrivals, saturate, shuffled

# As many as the Images API lets a client ask for.
_ASKED_PREVIEWS = 3
_LONG_STEPS = 50


@dataclass(frozen=True)
class Scope:
    """How much to measure; `cancels` are requests that are cancelled."""

    repeats: int
    requests: int
    cancels: int


def compare_decoding(ours: Ours, scope: Scope) -> dict[str, Any]:
    """Decoding on a thread of its own against decoding between steps, 25 steps each.

    Ratios are beside over between: of throughput from a full queue, and of the mean latency at 70 %
    of what decoding between steps can serve.
    """
    return asyncio.run(_compare_decoding(ours, scope))


async def _compare_decoding(ours: Ours, scope: Scope) -> dict[str, Any]:
    ways = {
        "beside": replace(ours.settings, decode_beside=True),
        "between": replace(ours.settings, decode_beside=False),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for order in turns(list(ways), scope.repeats):
        for way in order:
            steps = shuffled(UNIFORM, max(4, 3 * ours.settings.cap), 0)
            rates[way].append(await saturate(ours, ways[way], steps))
    rate_per_s = 0.7 * statistics.median(rates["between"])
    means: dict[str, list[float]] = {way: [] for way in ways}
    for repeat, order in enumerate(turns(list(ways), scope.repeats)):
        arrivals = poisson_arrivals(ours, UNIFORM, scope.requests, rate_per_s, repeat)
        for way in order:
            played = await play(ours, ways[way], arrivals)
            means[way].append(statistics.fmean(one.latency_s for one in played.served))
    return {
        "variant": ours.variant.name,
        "cap": ours.settings.cap,
        "images_per_s": {way: asdict(Spread.of(found)) for way, found in rates.items()},
        "throughput_ratio": asdict(ratios(rates["beside"], rates["between"])),
        "rate_per_s": rate_per_s,
        "requests": scope.requests,
        "mean_s": {way: asdict(Spread.of(found)) for way, found in means.items()},
        "mean_ratio": asdict(ratios(means["beside"], means["between"])),
    }


def compare_previews(ours: Ours, scope: Scope, clock: Clock) -> dict[str, Any]:
    """What one request's previews cost those that share its steps.

    One request of 50 steps with or without previews, and as many of 25 steps beside it as there are
    slots left, at least one. Ratios are with previews over without.
    """
    return asyncio.run(_compare_previews(ours, scope, clock))


async def _compare_previews(ours: Ours, scope: Scope, clock: Clock) -> dict[str, Any]:
    if ours.variant.preview_vae is None:
        return {}
    asked = {"none": 0, "asked": _ASKED_PREVIEWS, "every step": _LONG_STEPS}
    others_s: dict[str, list[float]] = {name: [] for name in asked}
    work_s: dict[str, list[float]] = {name: [] for name in asked}
    calls = {name: Calls() for name in asked}
    for order in turns(list(asked), 2 * scope.repeats + 1):
        for name in order:
            engine = Engine(ours.pipeline, ours.settings, Pace(ours.call_s), calls[name])
            started_s = clock.now_s()
            try:
                first = engine.submit(
                    ours.generation(PROMPT, [0], _LONG_STEPS, previews=asked[name])
                )
                beside = [
                    engine.submit(ours.generation(PROMPT, [seed], STEPS))
                    for seed in range(1, max(2, ours.settings.cap))
                ]
                results = await asyncio.gather(*(ticket.result() for ticket in beside))
                await first.result()
            finally:
                await closed(engine)
            work_s[name].append(clock.now_s() - started_s)
            others_s[name].append(
                statistics.fmean(one.queue_s + one.denoise_s + one.decode_s for one in results)
            )
    return {
        "variant": ours.variant.name,
        "others": max(2, ours.settings.cap) - 1,
        "rounds": 2 * scope.repeats + 1,
        "ways": {
            name: {
                "previews": asked[name],
                "shown": len(calls[name].preview_s) / len(others_s[name]),
                "skipped": calls[name].previews_skipped / len(others_s[name]),
                "preview_s": asdict(Spread.of(calls[name].preview_s)),
                "others_mean_ratio": asdict(ratios(others_s[name], others_s["none"])),
                "work_ratio": asdict(ratios(work_s[name], work_s["none"])),
            }
            for name in asked
            if name != "none"
        },
    }


class Watched:
    """A pipeline that notes when each call ran, and whose images were in it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._seeds: dict[int, int] = {}
        # Start, end, and the seeds of the jobs whose images it stepped.
        self.calls: list[tuple[float, float, frozenset[int]]] = []

    @property
    def prompt_lookups(self) -> tuple[int, int]:
        """The pipeline's."""
        return self._pipeline.prompt_lookups

    def plan(self, job: Generation) -> Plan:
        """The pipeline's."""
        return self._pipeline.plan(job)

    def begin(self, job: Generation) -> tuple[list[Trajectory], tuple[str, ...]]:
        """Note whose they are."""
        trajectories, warnings = self._pipeline.begin(job)
        for one in trajectories:
            # A finished trajectory's number may be given again: then to another job's.
            self._seeds[id(one)] = job.seeds[0]
        return trajectories, warnings

    def step(self, trajectories: list[Trajectory]) -> None:
        """Note when, and with whom."""
        started_at = time.perf_counter()
        self._pipeline.step(trajectories)
        seeds = frozenset(self._seeds[id(one)] for one in trajectories)
        self.calls.append((started_at, time.perf_counter(), seeds))

    def decode_slice(self, trajectory: Trajectory) -> int:
        """The pipeline's."""
        return self._pipeline.decode_slice(trajectory)

    def decode(self, trajectories: list[Trajectory]) -> NDArray[np.uint8]:
        """The pipeline's."""
        return self._pipeline.decode(trajectories)

    def preview(self, trajectory: Trajectory) -> NDArray[np.uint8]:
        """The pipeline's."""
        return self._pipeline.preview(trajectory)

    def flagged(self, pixels: NDArray[np.uint8]) -> list[bool]:
        """The pipeline's."""
        return self._pipeline.flagged(pixels)

    def free_memory(self) -> None:
        """The pipeline's."""
        self._pipeline.free_memory()

    def clock_s(self) -> float:
        """The pipeline's."""
        return self._pipeline.clock_s()


def count_cancels(ours: Ours, scope: Scope) -> dict[str, Any]:
    """In how many UNet calls an image still was after its request's cancel.

    Slots are kept full; each request is cancelled at a random moment of its first ten steps.
    `in_flight` are calls that had begun by then, `begun_after` those that began later.
    """
    return asyncio.run(_count_cancels(ours, scope))


async def _count_cancels(ours: Ours, scope: Scope) -> dict[str, Any]:
    watched = Watched(ours.pipeline)
    denoiser: Denoiser[Generation, Trajectory] = watched
    engine = Engine(denoiser, ours.settings, Pace(ours.call_s))
    drawn = random.Random(0)
    cap = ours.settings.cap
    step_s = Pace(ours.call_s).call_s(cap)
    seeds = iter(range(scope.cancels))
    cancelled_at: dict[int, float] = {}

    async def keep_a_slot_busy() -> None:
        for seed in seeds:
            ticket = engine.submit(ours.generation(PROMPT, [seed], _LONG_STEPS))
            await asyncio.sleep(drawn.uniform(0, 10 * step_s))
            cancelled_at[seed] = time.perf_counter()
            ticket.cancel()

    try:
        await asyncio.gather(*(keep_a_slot_busy() for _ in range(cap)))
    finally:
        await closed(engine)
    return {"variant": ours.variant.name, "cap": cap} | counted(watched.calls, cancelled_at)


def counted(
    calls: Sequence[tuple[float, float, frozenset[int]]], cancelled_at: dict[int, float]
) -> dict[str, Any]:
    """How many requests had so many calls after their cancel, by number of calls."""
    in_flight = dict.fromkeys(cancelled_at, 0)
    begun_after = dict.fromkeys(cancelled_at, 0)
    stepped = set()
    for started_at, ended_at, seeds in calls:
        for seed in seeds & cancelled_at.keys():
            stepped.add(seed)
            begun_after[seed] += started_at >= cancelled_at[seed]
            in_flight[seed] += started_at < cancelled_at[seed] < ended_at
    return {
        "cancels": len(cancelled_at),
        "under_way": len(stepped),
        "in_flight": _histogram(in_flight),
        "begun_after": _histogram(begun_after),
        "most": max(in_flight[seed] + begun_after[seed] for seed in cancelled_at),
    }


def _histogram(calls: dict[int, int]) -> dict[str, int]:
    found = list(calls.values())
    return {str(many): found.count(many) for many in sorted(set(found))}
