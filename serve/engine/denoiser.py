"""The `Denoiser` protocol: what an engine needs to draw.

The pipelines implement it, and so do the tests' fakes and the load tests' fixed steps.
"""

from collections.abc import Hashable
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..generation import Plan


class Trajectory(Protocol):
    """One image under way."""

    steps_done: int

    @property
    def total_steps(self) -> int:
        """UNet calls in all, at least 1."""

    @property
    def group(self) -> Hashable:
        """Equal for trajectories that can share a call of `step`."""

    @property
    def decode_group(self) -> Hashable:
        """Equal for trajectories that can share a call of `decode`."""


JobT = TypeVar("JobT", contravariant=True)
TrajectoryT = TypeVar("TrajectoryT", bound=Trajectory)


class Denoiser(Protocol[JobT, TrajectoryT]):
    """Draws on a device. Calls block.

    `begin` and `step` come from one thread and never overlap. `decode`, `preview` and `flagged`
    come from one other thread, and may overlap with those two. `plan` comes from any.

    Raises:
        OutOfDeviceMemory: from any call; the trajectories are as they were, so the call can be
            made again with fewer, after `free_memory`.
    """

    @property
    def prompt_lookups(self) -> tuple[int, int]:
        """How many prompts were found among those encoded before, and how many were not."""

    def clock_s(self) -> float:
        """Seconds since some moment, to time calls with, on the thread that makes them.

        Where it can, it stands still while other work has the device.
        """

    def plan(self, job: JobT, /) -> Plan:
        """What the job is going to take; at once, without the device."""

    def begin(self, job: JobT, /) -> tuple[list[TrajectoryT], tuple[str, ...]]:
        """One trajectory per image, in order, and warnings for the client."""

    def step(self, trajectories: list[TrajectoryT], /) -> None:
        """Advance each trajectory, all of one group, by one step.

        It may return when the device is done with the call before, not yet with this one.
        Where it raises, a trajectory whose `steps_done` hasn't moved is as it was.
        """

    def decode_slice(self, trajectory: TrajectoryT, /) -> int:
        """How many images like this one a call of `decode` has memory for, at least 1."""

    def decode(self, trajectories: list[TrajectoryT], /) -> NDArray[np.uint8]:
        """Pixels of finished trajectories, all of one decode group: `(B, H, W, 3)` uint8.

        Raises:
            NotFinite: one of the images is not a number; called with it alone, or with others.
        """

    def preview(self, trajectory: TrajectoryT, /) -> NDArray[np.uint8]:
        """What the image looks like so far, `(H, W, 3)` uint8; it may go on meanwhile."""

    def flagged(self, pixels: NDArray[np.uint8], /) -> list[bool]:
        """Which of these pictures, `(B, H, W, 3)` uint8, nobody may see: finished or preview."""

    def free_memory(self) -> None:
        """Give back what is cached on the device."""
