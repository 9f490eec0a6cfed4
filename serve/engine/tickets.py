"""A request inside the engine, as whoever submitted it sees it: events, result, cancel."""

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
class Progress:
    """How far one image is, in UNet calls; `left_s` estimates the time to its last one."""

    image: int
    step: int
    total: int
    left_s: float


@dataclass(frozen=True, slots=True)
class Preview:
    """What one image looks like after some step: `(H, W, 3)` uint8."""

    image: int
    step: int
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Finished:
    """One image is done: `(H, W, 3)` uint8, and where its time went, as in `Result`.

    `pixels` is None where the image was flagged.
    """

    image: int
    pixels: NDArray[np.uint8] | None
    queue_s: float
    denoise_s: float
    decode_s: float


Event = Progress | Preview | Finished


@dataclass(frozen=True, slots=True)
class Result:
    """Pictures, `(H, W, 3)` uint8 each, in the job's order, and where the time went.

    None stands for one that was flagged; at least one was not.
    The three times add up to the whole: from `submit` to the first image's slot, from there to the
    last image's last step, and from there to the last picture.
    """

    images: Sequence[NDArray[np.uint8] | None]
    warnings: tuple[str, ...]
    queue_s: float
    denoise_s: float
    decode_s: float


class Ticket:
    """A submitted job. Made by `Engine.submit`, used on that event loop.

    `on_end` is called once, by whichever thread ends it, with the error or the result; with
    `asyncio.CancelledError` where it was cancelled.
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
        self.denoised_at: float | None = None
        self.warnings: tuple[str, ...] = ()
        self.previewed = False
        self.expected_s = 0.0
        self._told_of_progress = False
        self._on_end = on_end
        self._pictures: dict[int, NDArray[np.uint8] | None] = {}
        self._future: Future[Result] = Future()
        self._ended = False
        # The engine's threads and the event loop both end it and exchange events.
        self._lock = threading.Lock()
        self._events: dict[tuple[str, int, int], Event] = {}
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    async def result(self) -> Result:
        """Wait for the pictures. A waiter that is cancelled cancels the job.

        Raises:
            asyncio.CancelledError: the job was cancelled.
            EngineClosed: the engine closed before the job was done.
            DeadlineExceeded: the deadline passed, or could no longer be met.
            Flagged: every picture was flagged.
            Exception: whatever the denoiser raised.
        """
        try:
            # Shielded, so that the job ends in one place, whoever cancels.
            return await asyncio.shield(asyncio.wrap_future(self._future))
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def events(self, *, progress: bool = False) -> AsyncIterator[Event]:
        """Yield what happens until the job ends, to one reader.

        A slow reader skips steps of `Progress`, but no `Preview` and no `Finished`. Without
        `progress` every reader is slow: it is woken for the others only, since a wake-up at each
        step takes as much of the event loop's time as all the rest.
        """
        self._told_of_progress = progress
        while True:
            self._changed.clear()
            with self._lock:
                ended = self._ended
                events, self._events = self._events, {}
            for event in events.values():
                yield event
            if ended:
                return
            await self._changed.wait()

    def cancel(self) -> None:
        """Stop the work at the next step. Harmless when it is done already."""
        self.end(asyncio.CancelledError())

    @property
    def flagged(self) -> list[int]:
        """The images that were flagged so far."""
        return sorted(image for image, pixels in self._pictures.copy().items() if pixels is None)

    @property
    def ended(self) -> bool:
        """Whether it has its result or an error, or was cancelled."""
        return self._ended

    # The engine's threads call what follows.

    def tell(self, event: Progress | Preview) -> None:
        """Hand an event to the reader."""
        preview = isinstance(event, Preview)
        self._put(
            (type(event).__name__, event.image, event.step if preview else 0),
            event,
            wake=preview or self._told_of_progress,
        )

    def hand_over(
        self, image: int, pixels: NDArray[np.uint8] | None, admitted_at: float, denoised_at: float
    ) -> None:
        """Take in one picture, None for a flagged one; with the last one the job is done."""
        finished = Finished(
            image,
            pixels,
            queue_s=admitted_at - self.submitted_at,
            denoise_s=denoised_at - admitted_at,
            decode_s=time.perf_counter() - denoised_at,
        )
        self._pictures[image] = pixels
        self._put(("Finished", image, 0), finished)
        if len(self.flagged) == self.plan.images:
            self.end(Flagged("every picture of this request was flagged by the safety checker"))
        elif len(self._pictures) == self.plan.images:
            assert self.begun_at is not None
            assert self.denoised_at is not None
            self.end(
                Result(
                    images=[self._pictures[index] for index in range(self.plan.images)],
                    warnings=self.warnings,
                    queue_s=self.begun_at - self.submitted_at,
                    denoise_s=self.denoised_at - self.begun_at,
                    decode_s=time.perf_counter() - self.denoised_at,
                )
            )

    def end(self, outcome: Result | BaseException) -> None:
        """End the job, unless it has ended."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
        # Before the waiter goes on, so that it finds the engine without this job.
        self._on_end(self, outcome)
        if isinstance(outcome, Result):
            self._future.set_result(outcome)
        elif isinstance(outcome, asyncio.CancelledError):
            self._future.cancel()
        else:
            self._future.set_exception(outcome)
        self._notify()

    def _put(self, key: tuple[str, int, int], event: Event, *, wake: bool = True) -> None:
        with self._lock:
            self._events.pop(key, None)  # So that the newest comes last.
            self._events[key] = event
        if wake:
            self._notify()

    def _notify(self) -> None:
        with contextlib.suppress(RuntimeError):  # The loop may be gone when the process ends.
            self._loop.call_soon_threadsafe(self._changed.set)
