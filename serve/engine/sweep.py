"""Finds at start-up, by timing calls on the device, how many images a call is worth."""

from collections.abc import Callable
from functools import partial

from ..errors import OutOfDeviceMemory
from .denoiser import Denoiser, JobT, TrajectoryT

# Another doubling must bring this much more throughput, else it only makes every step longer.
_GAIN = 1.05
MOST_IMAGES = 16
# Timed calls per number of images; the fastest counts, since disturbances only add time.
_CALLS = 3


def sweep_denoiser(
    denoiser: Denoiser[JobT, TrajectoryT], job: Callable[[int, int], JobT], most: int = MOST_IMAGES
) -> tuple[int, dict[int, float]]:
    """`sweep` over a denoiser's steps; `job(images, steps)` makes a request for it.

    Raises:
        OutOfDeviceMemory: there is no memory for a single image.
    """
    with denoiser.measuring():
        return sweep(partial(_time_call, denoiser, job), most)


def _time_call(
    denoiser: Denoiser[JobT, TrajectoryT], job: Callable[[int, int], JobT], images: int
) -> float:
    """Seconds of a warm call, by the denoiser's own clock."""
    trajectories, _ = denoiser.begin(job(images, _CALLS + 1))
    seconds = []
    for _ in range(_CALLS + 1):
        started_at = denoiser.clock_s()
        denoiser.step(trajectories)
        seconds.append(denoiser.clock_s() - started_at)
    return min(seconds[1:])  # The first one warms up.


def sweep(call_s: Callable[[int], float], most: int = MOST_IMAGES) -> tuple[int, dict[int, float]]:
    """Time calls of 1, 2, 4, ... images until two doublings gain under 5 % images a second each.

    Two, since one may gain little where the next gains much, as on a CPU from 2 to 4 and to 8 of
    the miniature's images, and since a disturbed call must not leave a replica with few slots.
    `call_s` times a call and raises `OutOfDeviceMemory` if there is no memory for it. Returns the
    largest number that was worth it, and all times by number of images.

    Raises:
        OutOfDeviceMemory: there is no memory for a single image.
    """
    seconds = {1: call_s(1)}
    best, images = 1, 2
    while images <= min(most, 4 * best):
        try:
            seconds[images] = call_s(images)
        except OutOfDeviceMemory:
            break
        doublings = (images // best).bit_length() - 1
        if images / seconds[images] >= _GAIN**doublings * best / seconds[best]:
            best = images
        images *= 2
    return best, seconds
