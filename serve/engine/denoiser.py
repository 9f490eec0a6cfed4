"""The `Denoiser` protocol: what an engine needs to draw.

Implemented by the pipelines, the tests' fakes and the load tests' fixed-step denoiser.
"""

from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..generation import Plan
from ..replica_info import ReplicaInfo


class Trajectory(Protocol):
    """One image on its way from noise to a picture."""

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

    `begin` and `step` are called from one thread and never overlap. `prepare`, `decode`, `preview`
    and `flagged` are called from one other thread, and may overlap with those two. `plan` and
    `info` may be called from any thread.

    Raises:
        OutOfDeviceMemory: from any call; the trajectories are unchanged, so the call can be
            repeated with fewer, after `free_memory`.
    """

    @property
    def prompt_lookups(self) -> tuple[int, int]:
        """Hits and misses of the prompt embedding cache so far."""

    def info(self) -> ReplicaInfo:
        """What it runs on, its optimisations, and the memory that it takes now; returns at once."""

    def clock_s(self) -> float:
        """A monotonic clock in seconds, for timing calls on the thread that makes them.

        Where possible, it stands still while other work has the device.
        """

    def measuring(self) -> AbstractContextManager[None]:
        """A context for timing calls: while it is open, no other process times on this device."""

    def plan(self, job: JobT, /) -> Plan:
        """The work of a job; returns at once, without using the device."""

    def prepare(self, job: JobT, /) -> Any:
        """What `begin` needs besides the job, where its plan says so."""

    def begin(
        self, job: JobT, prepared: Any = None, /
    ) -> tuple[list[TrajectoryT], tuple[str, ...]]:
        """One trajectory per image, in order, and warnings for the client."""

    def step(self, trajectories: list[TrajectoryT], /) -> None:
        """Advance each trajectory, all of one group, by one step.

        May return as soon as the device has finished the previous call. If it raises, every
        trajectory whose `steps_done` hasn't changed is unchanged.
        """

    def decode_slice(self, trajectory: TrajectoryT, /) -> int:
        """How many images like this one a call of `decode` should have, 1 to 8."""

    def decode(self, trajectories: list[TrajectoryT], /) -> NDArray[np.uint8]:
        """Pixels of finished trajectories, all of one decode group: `(B, H, W, 3)` uint8.

        Raises:
            NotFinite: one of the images has infinite or NaN values.
        """

    def preview(self, trajectory: TrajectoryT, /) -> NDArray[np.uint8]:
        """The image so far, `(H, W, 3)` uint8; may be called while it is stepped."""

    def flagged(self, pixels: NDArray[np.uint8], /) -> list[bool]:
        """Which pictures or previews, `(B, H, W, 3)` uint8, must not be shown."""

    def free_memory(self) -> None:
        """Release cached device memory."""
