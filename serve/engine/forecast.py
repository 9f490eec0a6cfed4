"""Forecasts of how long work takes, from measured call times; needs neither clock nor device."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ..generation import Preparation

# Weight of the newest measurement in the moving average: it follows a change within ten calls.
_NEWEST = 0.2

KeyT = TypeVar("KeyT")


class Pace:
    """Moving averages of the seconds of a call, by images in it, of decoding and of preparing.

    Calls are kept apart by the cost of a step (`generation.Plan.step_cost`). An unmeasured cost is
    scaled from cost 1, and an unmeasured number of images interpolated between its neighbours.
    Preparing is kept apart by kind and cost; an unmeasured cost is scaled from the nearest one of
    its kind. Without any measurement all of it takes 0 s, so that nothing is refused for lack of
    one.
    """

    def __init__(self, call_s: Mapping[int, float] | None = None) -> None:
        self._call_s: dict[float, dict[int, float]] = {1.0: dict(call_s or {})}
        self._fastest_s: dict[float, float] = {}
        if call_s:
            self._fastest_s[1.0] = min(call_s.values())
        self.decode_s = 0.0
        self._prepare_s: dict[str, dict[float, float]] = {}

    def saw_call(self, images: int, step_cost: float, seconds: float) -> None:
        """Take in the measured seconds of a call of `images` whose steps cost `step_cost` each."""
        self._call_s[step_cost] = _taken_in(self._call_s.get(step_cost, {}), images, seconds)
        self._fastest_s[step_cost] = min(self._fastest_s.get(step_cost, seconds), seconds)

    def saw_decode(self, images: int, seconds: float) -> None:
        """Take in the measured seconds of decoding `images` in one call."""
        self.decode_s = _average(self.decode_s or None, seconds / images)

    def saw_prepare(self, preparation: Preparation, seconds: float) -> None:
        """Take in the measured seconds of preparing a job."""
        measured = self._prepare_s.get(preparation.kind, {})
        self._prepare_s[preparation.kind] = _taken_in(measured, preparation.cost, seconds)

    def call_s(self, images: int, step_cost: float = 1.0) -> float:
        """Expected seconds of a call."""
        measured = self._call_s.get(step_cost)
        if measured:
            return _interpolated(measured, images)
        return _interpolated(self._call_s[1.0], images) * step_cost

    def prepare_s(self, preparation: Preparation | None) -> float:
        """Expected seconds of preparing a job; 0 where there is nothing to prepare."""
        if preparation is None or not (measured := self._prepare_s.get(preparation.kind)):
            return 0.0
        nearest = min(measured, key=lambda cost: abs(cost - preparation.cost))
        return measured[nearest] * preparation.cost / nearest

    def fastest_call_s(self, step_cost: float = 1.0) -> float:
        """Seconds of the fastest call so far: a lower bound of what a step takes."""
        if step_cost in self._fastest_s:
            return self._fastest_s[step_cost]
        return self._fastest_s.get(1.0, 0.0) * min(step_cost, 1.0)


@dataclass(frozen=True, slots=True)
class Work:
    """Images with the same number of steps left, at the same cost each.

    `prepare_s` are the seconds of preparing them before their first step.
    """

    images: int
    steps: int
    step_cost: float
    prepare_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds until a job's first image gets a slot, and until its last picture."""

    start_s: float
    finish_s: float


@dataclass(eq=False, slots=True)
class _Image:
    """An image in the simulated slots or their queue."""

    steps_left: int
    step_cost: float
    start_s: float = 0.0


def forecast(pace: Pace, cap: int, ahead: Sequence[Work], job: Work) -> Forecast:
    """When a job starts and finishes if the work ahead of it, in order, is served first.

    Simulates the slots from one finished image to the next, as policy `step` fills them. Steps of
    different cost count as different groups, which take turns. A job without images starts and
    finishes when all the work ahead is done.

    Preparing goes on beside the steps, in order. Left out, for simplicity: that pictures are
    decoded on the same thread, that what is being prepared may be nearly done, that what is ready
    passes what is not, and that the work ahead ends with steps of what is prepared last.
    """
    queue = deque(image for work in ahead for image in _images(work))
    own = _images(job)
    queue.extend(own)
    slots: list[_Image] = []
    elapsed_s = 0.0
    while queue or slots:
        while queue and len(slots) < cap:
            image = queue.popleft()
            image.start_s = elapsed_s
            slots.append(image)
        steps = min(image.steps_left for image in slots)
        elapsed_s += steps * _round_s(pace, slots)
        for image in slots:
            image.steps_left -= steps
        slots = [image for image in slots if image.steps_left]
        if own and not any(image.steps_left for image in own):
            break
    start_s = own[0].start_s if own else elapsed_s
    prepares = job.prepare_s or not own
    ready_s = sum(work.prepare_s for work in (*ahead, job)) if prepares else 0.0
    later_s = max(0.0, ready_s - start_s)
    return Forecast(start_s + later_s, elapsed_s + later_s + pace.decode_s)


def _images(work: Work) -> list[_Image]:
    return [_Image(work.steps, work.step_cost) for _ in range(work.images)]


def _round_s(pace: Pace, slots: list[_Image]) -> float:
    """Seconds in which every slot advances by one step: one call for each group."""
    costs = [image.step_cost for image in slots]
    return sum(pace.call_s(costs.count(cost), cost) for cost in set(costs))


def _taken_in(measured: Mapping[KeyT, float], key: KeyT, seconds: float) -> dict[KeyT, float]:
    """A copy with the average moved: another thread may be reading what there is."""
    return {**measured, key: _average(measured.get(key), seconds)}


def _average(before: float | None, seconds: float) -> float:
    return seconds if before is None else before + _NEWEST * (seconds - before)


def _interpolated(measured: Mapping[int, float], images: int) -> float:
    """Linear between the neighbours, in proportion above the largest, constant below the least."""
    if not measured:
        return 0.0
    below = max((size for size in measured if size <= images), default=None)
    above = min((size for size in measured if size >= images), default=None)
    if above is None:
        largest = max(measured)
        return measured[largest] * images / largest
    if below is None or below == above:
        return measured[above]
    share = (images - below) / (above - below)
    return measured[below] + share * (measured[above] - measured[below])
