"""A submitted request as its submitter sees it: events, result, cancellation."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import Flagged
from ..generation import Plan


@dataclass(frozen=True, slots=True)
class Preview:
    """One image as it looks after `step` UNet calls: `(H, W, 3)` uint8."""

    image: int
    step: int
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Finished:
    """One finished image, `(H, W, 3)` uint8, None if it was flagged; and the seconds of each stage.

    They add up: from `submit` to its slot, to its last step, to its picture.
    """

    image: int
    pixels: NDArray[np.uint8] | None
    queue_s: float
    denoise_s: float
    decode_s: float


Event = Preview | Finished


@dataclass(frozen=True, slots=True)
class Result:
    """Pictures, `(H, W, 3)` uint8 each, in the job's order, and the seconds since `submit`.

    A flagged picture is None; at least one is not.
    """

    images: Sequence[NDArray[np.uint8] | None]
    seconds: float


class Ticket:
    """A submitted job. Made by `Engine.submit`, used on that event loop.

    `on_end` is called exactly once, from whichever thread ends the job, with its result or error;
    with `asyncio.CancelledError` if it was cancelled.
    """

    def __init__(
        self,
        job: Any,
        plan: Plan,
        deadline: float | None,
        on_end: Callable[["Ticket", Result | BaseException], None],
    ) -> None:
        self.job = job
        self.plan = plan
        self.deadline = deadline
        self.submitted_at = time.perf_counter()
        self.begun_at: float | None = None
        self.warnings: tuple[str, ...] = ()
        # What the denoiser has prepared, once it has.
        self.prepared: Any = None
        self.is_prepared = False
        self.previewed = False
        self.expected_s = 0.0
        self._on_end = on_end
        self._pictures: dict[int, NDArray[np.uint8] | None] = {}
        self._future: Future[Result] = Future()
        self._ended = False
        # Guards `_ended` and `_events`, which the engine's threads and the event loop share.
        self._lock = threading.Lock()
        self._events: list[Event] = []
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    async def result(self) -> Result:
        """Wait for the pictures. Cancelling the waiter cancels the job.

        Raises:
            asyncio.CancelledError: the job was cancelled.
            EngineClosed: the engine closed before the job was done.
            DeadlineExceeded: the deadline passed, or could no longer be met.
            Flagged: every picture was flagged.
            Exception: whatever the denoiser raised.
        """
        try:
            # Shielded, so that a job always ends in `end`, however it is cancelled.
            return await asyncio.shield(asyncio.wrap_future(self._future))
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def events(self) -> AsyncIterator[Event]:
        """Yield previews and finished images, in order, until the job ends; for one reader."""
        while True:
            self._changed.clear()
            with self._lock:
                ended = self._ended
                events, self._events = self._events, []
            for event in events:
                yield event
            if ended:
                return
            await self._changed.wait()

    def cancel(self) -> None:
        """Stop the work at the next step; no effect on a job that has ended."""
        self.end(asyncio.CancelledError())

    @property
    def flagged(self) -> list[int]:
        """Indices of the images flagged so far."""
        return sorted(image for image, pixels in self._pictures.copy().items() if pixels is None)

    @property
    def ended(self) -> bool:
        """Whether it has a result or an error, or was cancelled."""
        return self._ended

    # The engine's threads call what follows.

    def add_event(self, event: Event) -> None:
        """Queue an event for the reader of `events`."""
        with self._lock:
            self._events.append(event)
        self._notify()

    def add_picture(
        self, image: int, pixels: NDArray[np.uint8] | None, admitted_at: float, denoised_at: float
    ) -> None:
        """Take one picture, None for a flagged one; the last one ends the job."""
        finished = Finished(
            image,
            pixels,
            queue_s=admitted_at - self.submitted_at,
            denoise_s=denoised_at - admitted_at,
            decode_s=time.perf_counter() - denoised_at,
        )
        self._pictures[image] = pixels
        self.add_event(finished)
        if len(self.flagged) == self.plan.images:
            self.end(Flagged("every picture of this request was flagged by the safety checker"))
        elif len(self._pictures) == self.plan.images:
            images = [self._pictures[index] for index in range(self.plan.images)]
            self.end(Result(images, time.perf_counter() - self.submitted_at))

    def end(self, outcome: Result | BaseException) -> None:
        """End the job, unless it has ended."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        # Before the waiter resumes, so that it finds the engine without this job.
        self._on_end(self, outcome)
        if isinstance(outcome, Result):
            self._future.set_result(outcome)
        elif isinstance(outcome, asyncio.CancelledError):
            self._future.cancel()
        else:
            self._future.set_exception(outcome)
        self._notify()

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # The loop may be closed when the process exits.
            self._loop.call_soon_threadsafe(self._changed.set)
