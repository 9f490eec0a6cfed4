"""How long work is going to take, from what the device has shown: no clock, no device."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Weight of the newest measurement: a change of the device's pace is followed within ten calls.
_NEWEST = 0.2


class Pace:
    """Seconds of a call by the images in it, and of decoding one; both follow the device.

    Calls are kept apart by the cost of a step (`denoiser.Plan`): an unknown cost is scaled from
    cost 1, an unknown number of images read off the line through its neighbours. While nothing is
    known everything takes 0 s, so that nothing is refused for want of a measurement.
    """

    def __init__(self, call_s: Mapping[int, float] | None = None) -> None:
        self._call_s: dict[float, dict[int, float]] = {1.0: dict(call_s or {})}
        self._fastest_s: dict[float, float] = {}
        if call_s:
            self._fastest_s[1.0] = min(call_s.values())
        self.decode_s = 0.0

    def saw_call(self, images: int, step_cost: float, seconds: float) -> None:
        """A call of `images`, whose steps cost so much each, took that long."""
        known = self._call_s.setdefault(step_cost, {})
        known[images] = _towards(known.get(images), seconds)
        self._fastest_s[step_cost] = min(self._fastest_s.get(step_cost, seconds), seconds)

    def saw_decode(self, images: int, seconds: float) -> None:
        """Decoding so many took that long."""
        self.decode_s = _towards(self.decode_s or None, seconds / images)

    def call_s(self, images: int, step_cost: float = 1.0) -> float:
        """What a call is expected to take."""
        known = self._call_s.get(step_cost)
        if known:
            return _interpolated(known, images)
        return _interpolated(self._call_s[1.0], images) * step_cost

    def fastest_call_s(self, step_cost: float = 1.0) -> float:
        """What no call of such steps has beaten: a lower bound for what cannot be in time."""
        if step_cost in self._fastest_s:
            return self._fastest_s[step_cost]
        return self._fastest_s.get(1.0, 0.0) * min(step_cost, 1.0)


@dataclass(frozen=True, slots=True)
class Work:
    """Images that have the same number of steps before them, at the same cost each."""

    images: int
    steps: int
    step_cost: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Seconds until a job's first slot, and until its last picture."""

    start_s: float
    finish_s: float


def forecast(pace: Pace, cap: int, ahead: Iterable[Work], job: Work) -> Forecast:
    """What becomes of a job when the work ahead of it, in order, is served first.

    Plays the slots forward from one finished image to the next, as policy `step` fills them.
    Steps of different cost count as different groups, which take turns. A job of no images begins
    and finishes when all the work ahead is done.
    """
    queue = deque((work, False) for work in ahead for _ in range(work.images))
    queue.extend((job, True) for _ in range(job.images))
    under_way: list[tuple[int, float, bool]] = []  # steps left, cost of each, the job's own
    elapsed_s, start_s, own_left = 0.0, None, job.images
    while own_left or (not job.images and (queue or under_way)):
        while queue and len(under_way) < cap:
            work, own = queue.popleft()
            under_way.append((work.steps, work.step_cost, own))
            if own and start_s is None:
                start_s = elapsed_s
        costs = [cost for _, cost, _ in under_way]
        round_s = sum(pace.call_s(costs.count(cost), cost) for cost in set(costs))
        steps = min(left for left, _, _ in under_way)
        elapsed_s += steps * round_s
        own_left -= sum(own for left, _, own in under_way if left == steps)
        under_way = [(left - steps, cost, own) for left, cost, own in under_way if left > steps]
    return Forecast(elapsed_s if start_s is None else start_s, elapsed_s + pace.decode_s)


def finish_s(pace: Pace, cap: int, ahead: Iterable[Work], job: Work) -> float:
    """Seconds until a job's last picture; see `forecast`."""
    return forecast(pace, cap, ahead, job).finish_s


def _towards(known: float | None, seconds: float) -> float:
    return seconds if known is None else known + _NEWEST * (seconds - known)


def _interpolated(known: Mapping[int, float], images: int) -> float:
    """On the line between the neighbours; below and above the known, in proportion."""
    if images in known:
        return known[images]
    below = max((size for size in known if size < images), default=None)
    above = min((size for size in known if size > images), default=None)
    if below is None and above is None:
        return 0.0
    if above is None:
        assert below is not None
        return known[below] * images / below
    if below is None:
        return known[above]
    share = (images - below) / (above - below)
    return known[below] + share * (known[above] - known[below])
