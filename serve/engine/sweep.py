"""How many images a call is worth, tried on the device at start-up: no device of its own."""

from collections.abc import Callable
from functools import partial

from ..errors import OutOfDeviceMemory
from .denoiser import Denoiser, JobT, TrajectoryT

# Another doubling must bring this much more, else it only makes everybody's step longer.
_GAIN = 1.05
MOST_IMAGES = 16
# Calls of each number of images that are timed; the fastest counts, since what disturbs only adds.
_CALLS = 3


def sweep_denoiser(
    denoiser: Denoiser[JobT, TrajectoryT], job: Callable[[int, int], JobT], most: int = MOST_IMAGES
) -> tuple[int, dict[int, float]]:
    """`sweep` over a denoiser's steps; `job` makes one of so many images and so many steps.

    Raises:
        OutOfDeviceMemory: not even one image has room.
    """
    return sweep(partial(time_call, denoiser, job), most)


def time_call(
    denoiser: Denoiser[JobT, TrajectoryT], job: Callable[[int, int], JobT], images: int
) -> float:
    """Seconds of a warm call of so many images, by the denoiser's own clock.

    Raises:
        OutOfDeviceMemory: there is no room for it.
    """
    trajectories, _ = denoiser.begin(job(images, _CALLS + 1))
    seconds = []
    for _ in range(_CALLS + 1):
        started_at = denoiser.clock_s()
        denoiser.step(trajectories)
        seconds.append(denoiser.clock_s() - started_at)
    return min(seconds[1:])  # The first one warms up.


def sweep(call_s: Callable[[int], float], most: int = MOST_IMAGES) -> tuple[int, dict[int, float]]:
    """Time calls of 1, 2, 4, ... images, until one brings under 5 % more images a second.

    `call_s` times a call and raises `OutOfDeviceMemory` where there is no room for it. Returns the
    largest number that was worth it, and all times by number of images.

    Raises:
        OutOfDeviceMemory: not even one image has room.
    """
    seconds = {1: call_s(1)}
    best = 1
    while best * 2 <= most:
        images = best * 2
        try:
            seconds[images] = call_s(images)
        except OutOfDeviceMemory:
            break
        if images / seconds[images] < _GAIN * best / seconds[best]:
            break
        best = images
    return best, seconds
