"""One image of a request inside the engine, and a watch over the calls that work on it."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .denoiser import TrajectoryT
from .tickets import Ticket

ValueT = TypeVar("ValueT")


@dataclass(eq=False, slots=True)
class Image(Generic[TrajectoryT]):
    """An image from its request's `submit` to its picture; `trajectory` is there once begun."""

    ticket: Ticket
    index: int
    trajectory: TrajectoryT | None = None
    admitted_at: float = 0.0
    denoised_at: float = 0.0
    # Found no memory although it was alone in the call.
    had_no_room: bool = False

    @property
    def request(self) -> Hashable:
        """Its ticket."""
        return self.ticket

    @property
    def group(self) -> Hashable:
        """Whose calls it can share."""
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


class Watch:
    """Times a thread's calls into the device; others can see how long the present one lasts."""

    def __init__(self) -> None:
        self._started_at: float | None = None

    @property
    def age_s(self) -> float:
        """How long the call under way has lasted; 0 between calls."""
        started_at = self._started_at
        return 0.0 if started_at is None else time.perf_counter() - started_at

    def time(self, function: Callable[[Any], ValueT], argument: Any) -> tuple[ValueT, float]:
        """Call; the value and the seconds."""
        started_at = self._started_at = time.perf_counter()
        try:
            return function(argument), time.perf_counter() - started_at
        finally:
            self._started_at = None
