"""Turns finished images into pixels, and the others into previews, beside the steps.

It also prepares jobs that need it, such as edits, whose picture has to be encoded.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from ..errors import DeadlineExceeded, OutOfDeviceMemory
from .denoiser import Denoiser, JobT, TrajectoryT
from .forecast import Pace
from .observer import Observer
from .previews import PreviewBudget
from .slots import Limit
from .tickets import Preview, Ticket
from .under_way import ImageTask, Stopwatch

_log = logging.getLogger("ray.serve")
_MOST_AT_ONCE = 8  # No denoiser asks for more.


class Decoding(Generic[JobT, TrajectoryT]):
    """A thread that decodes finished images in order, in slices that fit into memory, and previews.

    Pixels that the denoiser flags are dropped here: the ticket gets None in their place.
    """

    def __init__(
        self,
        denoiser: Denoiser[JobT, TrajectoryT],
        pace: Pace,
        budget: PreviewBudget,
        observer: Observer,
    ) -> None:
        self.stopwatch = Stopwatch()
        self._denoiser = denoiser
        self._pace = pace
        self._budget = budget
        self._observer = observer
        self._finished: deque[ImageTask[TrajectoryT]] = deque()
        self._previews: deque[tuple[ImageTask[TrajectoryT], int, bool]] = deque()
        self._unprepared: deque[tuple[Ticket, Callable[[], None]]] = deque()
        self._limit = Limit(_MOST_AT_ONCE)
        self._closed = False
        self._changed = threading.Condition()
        # A daemon: a call that hangs in the device must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="decode", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    def put(self, images: list[ImageTask[TrajectoryT]]) -> None:
        """Queue images that have done all their steps."""
        with self._changed:
            self._finished.extend(images)
            self._changed.notify()

    def put_job(self, ticket: Ticket, done: Callable[[], None]) -> None:
        """Queue a job to be prepared; `done` is called when it is."""
        with self._changed:
            self._unprepared.append((ticket, done))
            self._changed.notify()

    def put_preview(self, image: ImageTask[TrajectoryT], shared: bool) -> None:
        """Queue a preview of an image; `shared` if other requests share the device."""
        with self._changed:
            self._previews.append((image, image.begun.steps_done, shared))
            self._changed.notify()

    def close(self) -> None:
        """Stop after the present call; returns at once."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def join(self) -> None:
        """Wait for the present call, after `close`."""
        self._thread.join()

    def _run(self) -> None:
        while not self._closed:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._finished or self._previews or self._unprepared or self._closed
                )
            # In turns with the slices, so that neither waits for all of the other.
            if self._unprepared:
                self._prepare(*self._unprepared.popleft())
            if images := self._next_slice():
                self._decode(images)
            elif self._previews:
                self._preview(*self._previews.popleft())

    def _next_slice(self) -> list[ImageTask[TrajectoryT]]:
        """The oldest finished image, and those that can share its call."""
        with self._changed:
            now = time.perf_counter()
            self._limit.raise_if_due(now)
            waiting, self._finished = self._finished, deque()
            chosen: list[ImageTask[TrajectoryT]] = []
            most = 0
            for image in waiting:
                ticket = image.ticket
                if ticket.deadline is not None and now > ticket.deadline:
                    ticket.end(DeadlineExceeded("deadline_s: passed before the last picture"))
                if ticket.ended:
                    continue
                if not chosen:
                    most = min(self._denoiser.decode_slice(image.begun), self._limit.value)
                fits = not chosen or image.begun.decode_group == chosen[0].begun.decode_group
                if fits and len(chosen) < most:
                    chosen.append(image)
                else:
                    self._finished.append(image)
            return chosen

    def _prepare(self, ticket: Ticket, done: Callable[[], None]) -> None:
        if ticket.deadline is not None and time.perf_counter() > ticket.deadline:
            ticket.end(DeadlineExceeded("deadline_s: passed before the first step"))
        if ticket.ended:
            return
        try:
            try:
                prepared, seconds = self.stopwatch.time(self._denoiser.prepare, ticket.job)
            except OutOfDeviceMemory:
                self._denoiser.free_memory()
                self._observer.out_of_memory()
                prepared, seconds = self.stopwatch.time(self._denoiser.prepare, ticket.job)
        except Exception as fault:
            ticket.end(fault)
            return
        assert ticket.plan.preparation is not None
        self._pace.saw_prepare(ticket.plan.preparation, seconds)
        self._observer.prepared(seconds)
        ticket.prepared, ticket.is_prepared = prepared, True
        done()

    def _decode(self, images: list[ImageTask[TrajectoryT]]) -> None:
        try:
            (pixels, flags), seconds = self.stopwatch.time(
                self._decode_and_check, [image.begun for image in images]
            )
        except OutOfDeviceMemory as fault:
            self._denoiser.free_memory()
            self._retry_with_fewer(images, fault)
        except Exception as fault:
            if len(images) == 1:
                images[0].ticket.end(fault)
            else:
                for image in images:
                    self._decode([image])
        else:
            self._pace.saw_decode(len(images), seconds)
            self._observer.decoded(len(images), seconds)
            for image, picture, flagged in zip(images, pixels, flags, strict=True):
                image.ticket.add_picture(
                    image.index, None if flagged else picture, image.admitted_at, image.denoised_at
                )

    def _decode_and_check(
        self, trajectories: list[TrajectoryT]
    ) -> tuple[NDArray[np.uint8], list[bool]]:
        pixels = self._denoiser.decode(trajectories)
        return pixels, self._denoiser.flagged(pixels)

    def _preview_and_check(self, trajectory: TrajectoryT) -> tuple[NDArray[np.uint8], bool]:
        pixels = self._denoiser.preview(trajectory)
        return pixels, self._denoiser.flagged(pixels[None])[0]

    def _retry_with_fewer(
        self, images: list[ImageTask[TrajectoryT]], fault: OutOfDeviceMemory
    ) -> None:
        if len(images) == 1 and images[0].had_no_room:
            images[0].ticket.end(fault)
            return
        images[0].had_no_room = len(images) == 1
        self._limit.lower(len(images), time.perf_counter())
        _log.warning("out of device memory: decoding %d image(s) at once now", self._limit.value)
        self._observer.out_of_memory()
        with self._changed:
            self._finished.extendleft(reversed(images))

    def _preview(self, image: ImageTask[TrajectoryT], step: int, shared: bool) -> None:
        ticket = image.ticket
        if ticket.ended or image.steps_left == 0:
            return
        if shared and not self._budget.allows_preview:
            self._observer.preview_skipped()
            return
        try:
            (pixels, flagged), seconds = self.stopwatch.time(self._preview_and_check, image.begun)
        except OutOfDeviceMemory:
            self._denoiser.free_memory()
            self._observer.preview_skipped()
            return
        except Exception:
            # The picture may still succeed, so a failed preview doesn't fail the job.
            _log.exception("a preview failed")
            self._observer.preview_skipped()
            return
        self._budget.spend(seconds, shared=shared)
        if flagged:
            self._observer.preview_skipped()
            return
        first_after_s = None if ticket.previewed else time.perf_counter() - ticket.submitted_at
        ticket.previewed = True
        self._observer.previewed(ticket.job, seconds, first_after_s)
        ticket.add_event(Preview(image.index, step, pixels))
