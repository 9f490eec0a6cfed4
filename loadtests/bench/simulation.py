"""The engine's slots with a virtual clock: loads and devices that are not at hand.

Plays `serve.engine.slots`, the very rules that run, over calls whose times are given. What comes of
it is simulated, and says so wherever it is shown.
"""

from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from serve.engine.forecast import Pace
from serve.engine.slots import Policy, Slots


@dataclass(frozen=True)
class Device:
    """Seconds of a call by the images in it, of beginning a request, and of decoding an image.

    What lies between the known numbers of images is read off the line through its neighbours, as
    the engine's forecast does. Requests begin between steps; pictures are decoded one after another
    beside them.
    """

    call_s: Mapping[int, float]
    begin_s: float = 0.0
    decode_s: float = 0.0

    @classmethod
    def linear(cls, fixed_s: float, image_s: float, most: int = 64) -> "Device":
        """A call takes `fixed_s`, and `image_s` for each image."""
        return cls({images: fixed_s + image_s * images for images in range(1, most + 1)})

    def times(self, cap: int) -> dict[int, float]:
        """Seconds of each call of up to `cap` images."""
        pace = Pace(self.call_s)
        return {images: pace.call_s(images) for images in range(1, cap + 1)}


@dataclass(frozen=True, slots=True)
class Request:
    """One request of one image: its arrival, and its UNet calls."""

    at_s: float
    calls: int


@dataclass(eq=False, slots=True)
class _Image:
    index: int
    at_s: float
    calls_left: int
    group: Hashable = None

    @property
    def request(self) -> Hashable:
        return self.index


@dataclass
class _Queue:
    """The requests that arrive, with the slots that they go to."""

    slots: Slots[_Image]
    requests: deque[tuple[int, Request]] = field(default_factory=deque)

    def take(self, now_s: float) -> float:
        """Queue what has arrived; the clock, set forward to the next arrival where all is idle."""
        if not self.slots.waiting and not self.slots.under_way:
            now_s = max(now_s, self.requests[0][1].at_s)
        while self.requests and self.requests[0][1].at_s <= now_s:
            index, request = self.requests.popleft()
            self.slots.add([_Image(index, request.at_s, request.calls)])
        return now_s


def latencies_s(
    policy: Policy,
    cap: int,
    device: Device,
    requests: Sequence[Request],
    together: bool = False,
) -> list[float]:
    """Seconds from each request's arrival to its picture; `requests` in order of arrival.

    With `together` no picture is decoded before every slot is empty.
    """
    call_s = device.times(cap)
    queue = _Queue(Slots(policy, cap), deque(enumerate(requests)))
    latencies = [0.0] * len(requests)
    now_s, decoded_at_s = 0.0, 0.0
    finished: list[_Image] = []
    while queue.requests or queue.slots.waiting or queue.slots.under_way:
        now_s = queue.take(now_s)
        now_s += device.begin_s * len(queue.slots.admit())
        chosen = queue.slots.turn()
        now_s += call_s[len(chosen)]
        finished += _advance(queue.slots, chosen)
        if together and queue.slots.under_way:
            continue
        for image in finished:
            decoded_at_s = max(decoded_at_s, now_s) + device.decode_s
            latencies[image.index] = decoded_at_s - image.at_s
        finished = []
    return latencies


def saturation_per_s(policy: Policy, cap: int, device: Device, calls: Sequence[int]) -> float:
    """Images a second from a queue that is always full; `calls` are its images' UNet calls in turn.

    Counted in UNet calls of images while others wait, over what an image of the mix takes, so that
    neither the run's end nor which images happen to be done by then matters.
    """
    call_s = device.times(cap)
    slots: Slots[_Image] = Slots(policy, cap)
    slots.add([_Image(index, 0.0, one) for index, one in enumerate(calls)])
    now_s, done, at_last_admission = 0.0, 0, (0.0, 0)
    while slots.waiting:
        if admitted := slots.admit():
            at_last_admission = now_s, done
            now_s += device.begin_s * len(admitted)
        chosen = slots.turn()
        now_s += call_s[len(chosen)]
        done += len(chosen)
        _advance(slots, chosen)
    elapsed_s, done = at_last_admission
    return done / elapsed_s * len(calls) / sum(calls)


def _advance(slots: Slots[_Image], chosen: list[_Image]) -> list[_Image]:
    """One step of each; those that are through, taken out of their slots."""
    for image in chosen:
        image.calls_left -= 1
    finished = [image for image in chosen if not image.calls_left]
    slots.remove(finished)
    return finished
