"""One image of a request inside the engine, and a stopwatch for calls into the device."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .denoiser import TrajectoryT
from .tickets import Ticket

ValueT = TypeVar("ValueT")


@dataclass(eq=False, slots=True)
class ImageTask(Generic[TrajectoryT]):
    """One image from its request's `submit` to its picture; `trajectory` is None until begun."""

    ticket: Ticket
    index: int
    trajectory: TrajectoryT | None = None
    admitted_at: float = 0.0
    denoised_at: float = 0.0
    # Whether it ran out of memory in a call that it had to itself.
    had_no_room: bool = False

    @property
    def prepared(self) -> bool:
        """Whether its request has all that it needs to begin, or has ended, so that it may go."""
        ticket = self.ticket
        return ticket.ended or ticket.is_prepared or ticket.plan.preparation is None

    @property
    def group(self) -> Hashable:
        """Equal for images that can share a call of `step`."""
        return self.begun.group

    @property
    def begun(self) -> TrajectoryT:
        """The trajectory of an image that has a slot."""
        assert self.trajectory is not None
        return self.trajectory

    @property
    def steps_left(self) -> int:
        """UNet calls before it is denoised."""
        if self.trajectory is None:
            return self.ticket.plan.steps
        return self.trajectory.total_steps - self.trajectory.steps_done


class Stopwatch:
    """Times one thread's calls into the device; any thread may read `age_s`."""

    def __init__(self) -> None:
        self._started_at: float | None = None

    @property
    def age_s(self) -> float:
        """Seconds since the present call began; 0 between calls."""
        started_at = self._started_at
        return 0.0 if started_at is None else time.perf_counter() - started_at

    def time(self, function: Callable[[Any], ValueT], argument: Any) -> tuple[ValueT, float]:
        """Call `function(argument)`; returns its value and the seconds it took."""
        started_at = self._started_at = time.perf_counter()
        try:
            return function(argument), time.perf_counter() - started_at
        finally:
            self._started_at = None
