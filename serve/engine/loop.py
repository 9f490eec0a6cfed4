"""The engine: one loop steps all requests of a device together.

At each step boundary it drops what was cancelled or is late, admits waiting images into free slots
(`slots` has the rules), and runs one call over all images that can share it. Finished images go to
`decoding`, so that decoding doesn't delay the steps of others. The event loop only hands work over
and waits.

Errors stay with their own request: a call that fails with several images is repeated with each
image separately. When the device runs out of memory, the slots are halved and the images of that
call continue in smaller ones; an image that twice has too little memory for itself fails.
"""

import asyncio
import logging
import threading
import time
from dataclasses import dataclass
from typing import Generic

from ..errors import (
    DeadlineExceeded,
    DeadlineUnreachable,
    EngineClosed,
    Flagged,
    InvalidRequest,
    OutOfDeviceMemory,
)
from ..generation import Plan
from .decoding import Decoding
from .denoiser import Denoiser, JobT, TrajectoryT
from .forecast import Forecast, Pace, Work, forecast
from .observer import Observer, Outcome
from .previews import PreviewBudget
from .slots import Limit, Policy, Slots
from .tickets import Result, Ticket
from .under_way import ImageTask, Stopwatch

_log = logging.getLogger("ray.serve")
# Which of the two was shorter is decided where the request is read.
_DEADLINE = "the deadline (the request's, or the service's max_request_s)"


@dataclass(frozen=True, slots=True)
class Settings:
    """How an engine admits; `cap` is the number of slots: images under way at once."""

    policy: Policy = "step"
    cap: int = 1


class Engine(Generic[JobT, TrajectoryT]):
    """Runs jobs on a denoiser; `pace` holds what is already measured of its speed."""

    def __init__(
        self,
        denoiser: Denoiser[JobT, TrajectoryT],
        settings: Settings = Settings(),
        pace: Pace | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._denoiser = denoiser
        self._pace = pace or Pace()
        self._observer = observer or Observer()
        self._slots: Slots[ImageTask[TrajectoryT]] = Slots(settings.policy, settings.cap)
        self._limit = Limit(settings.cap)
        self._budget = PreviewBudget()
        self._decoding = Decoding(denoiser, self._pace, self._budget, self._observer)
        self._stopwatch = Stopwatch()
        self._jobs: dict[Ticket, list[ImageTask[TrajectoryT]]] = {}
        self._faults_in_a_row = 0
        self._rested = True
        self._closed = False
        # Guards the slots and the four above. May be taken while the decoding's lock is held.
        self._changed = threading.Condition(threading.RLock())
        # A daemon: a call that hangs in the device must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="denoise", daemon=True)
        self._thread.start()

    def submit(self, job: JobT, deadline: float | None = None) -> Ticket:
        """Queue a job; returns at once. Call it on an event loop.

        `deadline` is on `time.perf_counter`'s clock.

        Raises:
            EngineClosed: `close` was called.
            DeadlineUnreachable: with the work ahead the job would be late.
        """
        plan = self._denoiser.plan(job)
        ticket = Ticket(job, plan, deadline, self._ended)
        ahead = self._ahead()
        ticket.expected_s = self._forecast(plan, ahead).finish_s
        if deadline is not None:
            self._refuse_if_late(ticket, deadline, len(ahead))
        with self._changed:
            if self._closed:
                raise _closed()
            images = [ImageTask[TrajectoryT](ticket, index) for index in range(plan.images)]
            self._jobs[ticket] = images
            self._slots.add(images)
            self._changed.notify()
        if plan.preparation is not None:
            self._decoding.put_job(ticket, self._prepared)
        return ticket

    def forecast(self, job: JobT) -> Forecast:
        """When a job would start and finish if it were submitted now."""
        return self._forecast(self._denoiser.plan(job), self._ahead())

    def work_s(self, job: JobT) -> float:
        """Device seconds of a job's steps while all slots are in use, and of preparing it."""
        plan = self._denoiser.plan(job)
        call_s = self._pace.call_s(self._slots.cap, plan.step_cost)
        steps_s = plan.images * plan.steps * call_s / self._slots.cap
        return steps_s + self._pace.prepare_s(plan.preparation)

    @property
    def ahead_s(self) -> float:
        """Seconds until every submitted job is done."""
        return forecast(self._pace, self._slots.cap, self._ahead(), Work(0, 1, 1.0)).finish_s

    @property
    def image_step_s(self) -> float:
        """Device seconds of one image's step while all slots are in use."""
        return self._pace.call_s(self._slots.cap) / self._slots.cap

    @property
    def waiting(self) -> int:
        """Number of jobs without a slot yet."""
        with self._changed:
            return sum(ticket.begun_at is None for ticket in self._jobs)

    @property
    def alive(self) -> bool:
        """Whether the threads that own the device still run."""
        return self._thread.is_alive() and self._decoding.alive

    @property
    def call_age_s(self) -> float:
        """Seconds since the longest-running present call into the denoiser began; 0 without one."""
        return max(self._stopwatch.age_s, self._decoding.stopwatch.age_s)

    @property
    def unfinished(self) -> int:
        """Number of jobs that were submitted and have not ended."""
        return len(self._jobs)

    @property
    def faults_in_a_row(self) -> int:
        """Number of jobs that failed since the last success."""
        return self._faults_in_a_row

    @property
    def occupied(self) -> tuple[int, int]:
        """Number of images in slots, and of images waiting for one."""
        with self._changed:
            return len(self._slots.under_way), len(self._slots.waiting)

    @property
    def cap(self) -> int:
        """Number of slots; fewer than configured for a while after running out of memory."""
        return self._slots.cap

    def close(self) -> None:
        """Refuse new jobs and end the unfinished ones with `EngineClosed`; returns at once."""
        with self._changed:
            self._closed = True
            unfinished = tuple(self._jobs)
            self._changed.notify()
        self._decoding.close()
        for ticket in unfinished:
            ticket.end(_closed())

    async def wait_closed(self) -> None:
        """Wait until the threads have left the device, at most one call after `close`."""
        await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._decoding.join)

    def _ahead(self) -> list[Work]:
        with self._changed:
            return [
                Work(1, image.steps_left, image.ticket.plan.step_cost, self._prepare_s(image))
                for image in (*self._slots.under_way, *self._slots.waiting)
            ]

    def _prepare_s(self, image: ImageTask[TrajectoryT]) -> float:
        """Seconds of preparing an image's job, counted with its first; all, where it has begun."""
        if image.prepared or image.index > 0:
            return 0.0
        return self._pace.prepare_s(image.ticket.plan.preparation)

    def _forecast(self, plan: Plan, ahead: list[Work]) -> Forecast:
        prepare_s = self._pace.prepare_s(plan.preparation)
        own = Work(plan.images, plan.steps, plan.step_cost, prepare_s)
        return forecast(self._pace, self._slots.cap, ahead, own)

    def _refuse_if_late(self, ticket: Ticket, deadline: float, ahead: int) -> None:
        takes_s = ticket.expected_s
        late_s = ticket.submitted_at + takes_s - deadline
        if late_s > 0:
            self._observer.refused(ticket.job)
            raise DeadlineUnreachable(
                f"deadline_s: this would take about {takes_s:.1f} s, {late_s:.1f} s longer than "
                f"{_DEADLINE}, with {ahead} image(s) ahead of it; retry later, allow more time, or "
                "ask for fewer steps",
                late_s,
            )

    def require_feasible(self, job: JobT, deadline: float) -> None:
        """Refuse a deadline that a job would miss even if nothing else was to be drawn.

        Raises:
            InvalidRequest: it would; waiting doesn't help.
        """
        alone_s = self._forecast(self._denoiser.plan(job), []).finish_s
        late_s = time.perf_counter() + alone_s - deadline
        if late_s > 0:
            self._observer.refused(job)
            raise InvalidRequest(
                f"deadline_s: even alone this would take about {alone_s:.1f} s, {late_s:.1f} s "
                f"longer than {_DEADLINE}; ask for fewer steps, fewer images or a smaller size, or "
                "allow more time",
                "deadline_s",
            )

    def _prepared(self) -> None:
        with self._changed:
            self._changed.notify()

    def _ended(self, ticket: Ticket, outcome: Result | BaseException) -> None:
        with self._changed:
            self._jobs.pop(ticket, None)
            label = _label(outcome)
            if label in ("done", "flagged"):
                self._faults_in_a_row = 0
            elif label in ("failed", "out_of_memory"):
                self._faults_in_a_row += 1
            self._changed.notify()
        took_s = time.perf_counter() - ticket.submitted_at
        self._observer.ended(ticket.job, label, took_s)
        if label == "done":
            self._observer.forecast(ticket.job, ticket.expected_s, took_s)

    def _run(self) -> None:
        while self._wait_for_work():
            self._end_late()
            self._admit()
            with self._changed:
                images = self._slots.turn()
            if images:
                self._step(images)

    def _wait_for_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._slots.busy)
            return not self._closed

    def _end_late(self) -> None:
        """End jobs that have missed their deadline, or would even at the fastest pace seen."""
        now = time.perf_counter()
        with self._changed:
            late = [
                ticket
                for ticket, images in self._jobs.items()
                if ticket.deadline is not None
                and now + self._least_s(ticket, images) > ticket.deadline
            ]
        for ticket in late:
            ticket.end(DeadlineExceeded(f"deadline_s: {_DEADLINE} passed, or is out of reach"))

    def _least_s(self, ticket: Ticket, images: list[ImageTask[TrajectoryT]]) -> float:
        """Lower bound of the seconds until a job's last step, preparing not included."""
        steps_left = max(image.steps_left for image in images)
        return steps_left * self._pace.fastest_call_s(ticket.plan.step_cost)

    def _admit(self) -> None:
        """Free the slots of jobs that have ended, and fill them with new ones."""
        if self._limit.raise_if_due(time.perf_counter()):
            _log.info("no lack of device memory lately: trying %d at once", self._limit.value)
        with self._changed:
            self._slots.cap = self._limit.value
            self._drop_ended()
            self._rested = not self._slots.under_way
            admitted = self._slots.admit()
        for image in admitted:
            image.admitted_at = time.perf_counter()
            if image.trajectory is None and not image.ticket.ended:
                self._begin(image.ticket)
        with self._changed:
            self._drop_ended()  # Jobs that failed to begin.

    def _drop_ended(self) -> None:
        everywhere = (*self._slots.waiting, *self._slots.under_way)
        if ended := [image for image in everywhere if image.ticket.ended]:
            self._slots.remove(ended)

    def _begin(self, ticket: Ticket) -> None:
        ticket.begun_at = time.perf_counter()
        self._observer.admitted(ticket.job, ticket.begun_at - ticket.submitted_at)

        def begin(job: JobT) -> tuple[list[TrajectoryT], tuple[str, ...]]:
            return self._denoiser.begin(job, ticket.prepared)

        try:
            try:
                begun, _ = self._stopwatch.time(begin, ticket.job)
            except OutOfDeviceMemory:
                self._denoiser.free_memory()
                self._observer.out_of_memory()
                begun, _ = self._stopwatch.time(begin, ticket.job)
        except Exception as fault:
            ticket.end(fault)
            return
        trajectories, ticket.warnings = begun
        with self._changed:
            images = self._jobs.get(ticket, [])
        for image, trajectory in zip(images, trajectories, strict=bool(images)):
            image.trajectory = trajectory

    def _step(self, images: list[ImageTask[TrajectoryT]]) -> None:
        """One call; if it fails, one more for each image that it has not advanced."""
        before = [image.steps_left for image in images]
        try:
            _, seconds = self._stopwatch.time(
                self._denoiser.step, [image.begun for image in images]
            )
        except OutOfDeviceMemory as fault:
            self._make_room(self._hand_on_stepped(images, before), len(images), fault)
            return
        except Exception as fault:
            if len(images) == 1:
                images[0].ticket.end(fault)
                return
            _log.exception("a step of %d images failed; repeating it for each", len(images))
            for image in self._hand_on_stepped(images, before):
                self._step([image])
            return
        # With launches one call ahead of the device, the first call's time says nothing.
        if not self._rested:
            self._pace.saw_call(len(images), images[0].ticket.plan.step_cost, seconds)
        self._observer.called(len(images), None if self._rested else seconds)
        if len(self._jobs) > 1:
            self._budget.earn(seconds)
        self._hand_on(images)

    def _hand_on_stepped(
        self, images: list[ImageTask[TrajectoryT]], before: list[int]
    ) -> list[ImageTask[TrajectoryT]]:
        """Hand on those images of a failed call that it has advanced; returns the others."""
        steps = list(zip(images, before, strict=True))
        self._hand_on([image for image, left in steps if image.steps_left < left])
        return [image for image, left in steps if image.steps_left == left]

    def _make_room(
        self, images: list[ImageTask[TrajectoryT]], called: int, fault: OutOfDeviceMemory
    ) -> None:
        """Go on with fewer images at once than were called; these have not advanced."""
        self._denoiser.free_memory()
        self._observer.out_of_memory()
        if called > 1:
            self._limit.lower(called, time.perf_counter())
            with self._changed:
                self._slots.cap = self._limit.value
            _log.warning("out of device memory: %d image(s) at once now", self.cap)
        for image in images:
            if called == 1 and image.had_no_room:
                image.ticket.end(fault)
            image.had_no_room = called == 1

    def _hand_on(self, images: list[ImageTask[TrajectoryT]]) -> None:
        """Hand images that were stepped to the decoding: finished, or for a preview."""
        now = time.perf_counter()
        finished = [image for image in images if image.steps_left == 0]
        with self._changed:
            self._slots.remove(finished)
        for image in images:
            if image.steps_left and image.begun.steps_done in image.ticket.plan.previews_at:
                self._decoding.put_preview(image, shared=len(self._jobs) > 1)
        for image in finished:
            image.denoised_at = now
        self._decoding.put(finished)


def _label(outcome: Result | BaseException) -> Outcome:
    match outcome:
        case Result():
            return "done"
        case Flagged():
            return "flagged"
        case asyncio.CancelledError():
            return "cancelled"
        case DeadlineExceeded():
            return "expired"
        case EngineClosed():
            return "closed"
        case OutOfDeviceMemory():
            return "out_of_memory"
        case _:
            return "failed"


def _closed() -> EngineClosed:
    return EngineClosed("this replica is shutting down")
