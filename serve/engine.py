"""The loop that owns a device: submit, progress, cancel, close.

Pure asyncio and threads over the `Denoiser` protocol. All calls into the denoiser come from one
thread; the event loop only hands work over and waits. Requests are served in order, the images of
one request together; between two steps the loop looks whether the request was cancelled.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from .errors import EngineClosed


class Trajectory(Protocol):
    """One image under way."""

    steps_done: int

    @property
    def total_steps(self) -> int:
        """Steps in all, at least 1."""


JobT = TypeVar("JobT", contravariant=True)
TrajectoryT = TypeVar("TrajectoryT", bound=Trajectory)


class Denoiser(Protocol[JobT, TrajectoryT]):
    """What the engine drives. Calls block, and never overlap."""

    def begin(self, job: JobT, /) -> tuple[list[TrajectoryT], tuple[str, ...]]:
        """One trajectory per image, in order, and warnings for the client."""

    def step(self, trajectories: list[TrajectoryT], /) -> None:
        """Advance each trajectory by one step."""

    def decode(self, trajectories: list[TrajectoryT], /) -> NDArray[np.uint8]:
        """Pixels of finished trajectories: `(B, H, W, 3)` uint8."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a request is, in UNet calls per image."""

    step: int
    total: int


@dataclass(frozen=True, slots=True)
class Result:
    """Pictures, `(H, W, 3)` uint8 each, in the job's order, and where the time went."""

    images: Sequence[NDArray[np.uint8]]
    warnings: tuple[str, ...]
    queue_s: float
    denoise_s: float
    decode_s: float


class Ticket:
    """A submitted job. Made by `Engine.submit`, used on that event loop."""

    def __init__(self, job: Any) -> None:
        self.job = job
        self.submitted_at = time.perf_counter()
        self.cancelled = threading.Event()
        self._future: Future[Result] = Future()
        self._loop = asyncio.get_running_loop()
        self._progress: Progress | None = None
        self._changed = asyncio.Event()

    async def result(self) -> Result:
        """Wait for the pictures. A waiter that is cancelled cancels the job.

        Raises:
            asyncio.CancelledError: the job was cancelled.
            EngineClosed: the engine closed before the job was done.
            Exception: whatever the denoiser raised.
        """
        try:
            return await asyncio.wrap_future(self._future)
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def progress(self) -> AsyncIterator[Progress]:
        """Yield the newest progress until the job ends; a slow reader skips steps."""
        seen = None
        while True:
            self._changed.clear()
            ended, newest = self._future.done(), self._progress
            if newest is not None and newest != seen:
                seen = newest
                yield newest
            elif ended:
                return
            else:
                await self._changed.wait()

    def cancel(self) -> None:
        """Stop the work at the next step. Harmless when it is done already."""
        self.cancelled.set()
        self._future.cancel()
        self._changed.set()

    # The engine's thread calls what follows.

    def report(self, progress: Progress) -> None:
        """Publish how far the job is."""
        self._progress = progress
        self._notify()

    def finish(self, outcome: Result | BaseException) -> None:
        """End the job, unless it was cancelled meanwhile."""
        if self._future.set_running_or_notify_cancel():
            if isinstance(outcome, Result):
                self._future.set_result(outcome)
            else:
                self._future.set_exception(outcome)
        self._notify()

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # The loop may be gone when the process ends.
            self._loop.call_soon_threadsafe(self._changed.set)


class Engine(Generic[JobT, TrajectoryT]):
    """Serves jobs one after another on a thread of its own."""

    def __init__(self, denoiser: Denoiser[JobT, TrajectoryT]) -> None:
        self._denoiser = denoiser
        self._waiting: deque[Ticket] = deque()
        self._current: Ticket | None = None
        self._closed = False
        self._changed = threading.Condition()
        self._call_started_at: float | None = None
        # A daemon: a call that hangs in the device must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="denoise", daemon=True)
        self._thread.start()

    def submit(self, job: JobT) -> Ticket:
        """Queue a job; returns at once. Call it on an event loop.

        Raises:
            EngineClosed: `close` was called.
        """
        ticket = Ticket(job)
        with self._changed:
            if self._closed:
                raise EngineClosed("this replica is shutting down")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket

    @property
    def alive(self) -> bool:
        """Whether the thread that owns the device still runs."""
        return self._thread.is_alive()

    @property
    def call_age_s(self) -> float:
        """How long the current call into the denoiser has lasted; 0 between calls."""
        started_at = self._call_started_at
        return 0.0 if started_at is None else time.perf_counter() - started_at

    def close(self) -> None:
        """Refuse new jobs and end the unfinished ones with `EngineClosed`; returns at once."""
        with self._changed:
            self._closed = True
            if self._current is not None:
                self._current.cancelled.set()
            self._changed.notify()

    async def wait_closed(self) -> None:
        """Wait until the thread has left the device, at most one step after `close`."""
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while (ticket := self._next()) is not None:
            if not ticket.cancelled.is_set():
                try:
                    ticket.finish(self._serve(ticket))
                except Exception as fault:  # The job's own: its neighbours go on.
                    ticket.finish(fault)
        for ticket in self._waiting:
            ticket.finish(_closed())

    def _next(self) -> Ticket | None:
        with self._changed:
            self._current = None
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return None
            self._current = self._waiting.popleft()
            return self._current

    def _serve(self, ticket: Ticket) -> Result:
        begun_at = time.perf_counter()
        trajectories, warnings = self._call(self._denoiser.begin, ticket.job)
        while unfinished := [one for one in trajectories if one.steps_done < one.total_steps]:
            self._stop_if_cancelled(ticket)
            self._call(self._denoiser.step, unfinished)
            slowest = min(trajectories, key=lambda one: one.steps_done)
            ticket.report(Progress(slowest.steps_done, slowest.total_steps))
        denoised_at = time.perf_counter()
        images: list[NDArray[np.uint8]] = []
        for one in trajectories:
            # One at a time: at 512x512 the KL decoder needs 0.4 GiB an image.
            self._stop_if_cancelled(ticket)
            images.extend(self._call(self._denoiser.decode, [one]))
        return Result(
            images=images,
            warnings=warnings,
            queue_s=begun_at - ticket.submitted_at,
            denoise_s=denoised_at - begun_at,
            decode_s=time.perf_counter() - denoised_at,
        )

    def _call(self, function: Any, argument: Any) -> Any:
        self._call_started_at = time.perf_counter()
        try:
            return function(argument)
        finally:
            self._call_started_at = None

    def _stop_if_cancelled(self, ticket: Ticket) -> None:
        if ticket.cancelled.is_set():
            raise _closed()  # Reaches nobody when the client cancelled: its future is gone.


def _closed() -> EngineClosed:
    return EngineClosed("this replica is shutting down")
