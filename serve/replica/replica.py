"""The actor around an engine: admission, drawing, health; it hosts one variant or several."""

import logging
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ..engine.tickets import Ticket
from ..errors import Overloaded, RetryLater
from ..generation import (
    Drawing,
    FinishedPicture,
    Generation,
    PictureEvent,
    PictureFormat,
    Timings,
    infotext,
)
from ..metrics import ReplicaMetrics
from ..replica_info import ReplicaInfo
from ..variants import Variant
from .admission import Returns, refusal
from .drawing import collect, picture_events, request_timings
from .encoding import Encoder
from .options import ReplicaOptions
from .startup import LoadDenoiser, start

_log = logging.getLogger("ray.serve")
# So many failures and no success between them: the device is at fault, not the requests.
_FAULTS_IN_A_ROW = 5


class VariantReplica:
    """Draws with the variants it hosts. Loaded and warm once constructed, so RUNNING means ready.

    `notes` say, by variant, what users of its pictures must know of its weights: they go into every
    picture's Exif and every reply's warnings.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors.
        self,
        variants: Sequence[Variant],
        load: LoadDenoiser,
        options: ReplicaOptions,
        notes: Mapping[str, str | None],
    ) -> None:
        self._notes = notes
        self._options = options
        self._returns = Returns()
        self._metrics = ReplicaMetrics()
        self._lookups = 0, 0
        self._encoder = Encoder()
        self._denoiser, self._engine = await start(
            variants, load, options.slots, self._encoder, self._metrics
        )

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        """Draw one request's pictures; cancelled with the caller. Raises what `stream` raises."""
        return await collect(self.stream(generation, picture_format), len(generation.seeds))

    async def stream(
        self, generation: Generation, picture_format: PictureFormat
    ) -> AsyncIterator[PictureEvent]:
        """Draw one request's pictures and yield them, and their previews, as they are made.

        A flagged picture isn't yielded, but the others' warnings say so. Where there is a safety
        checker, each picture therefore waits for the next. Closing it frees the device.

        Raises:
            EngineClosed: the replica is shutting down.
            Overloaded: the queue is too long.
            InvalidRequest: even without work ahead the request would be late.
            DeadlineUnreachable: with the work ahead it would be.
            DeadlineExceeded: its deadline passed meanwhile.
            OutOfDeviceMemory: not even one of its images alone had room.
            NotFinite: the model made something that is not a picture.
            Flagged: the safety checker flagged every picture.
        """
        ticket = self._admit(generation)
        timings: list[Timings] = []
        events = picture_events(
            ticket,
            partial(self._encode, generation, picture_format),
            self._notes[generation.variant],
            hold_back=self._options.safety_checker,
        )
        try:
            async for event in events:
                if isinstance(event, FinishedPicture):
                    timings.append(event.timings)
                yield event
        finally:
            await events.aclose()
            for _ in ticket.flagged:
                self._metrics.flagged(generation)
        self._count_lookups()
        _log_done(generation, request_timings(timings))

    async def forecast(self, generation: Generation) -> float:
        """How many seconds a request would take here if it came now."""
        return self._engine.forecast(generation).finish_s

    async def info(self) -> ReplicaInfo:
        """What this replica runs on, its optimisations, and the memory that it takes now."""
        return self._denoiser.info()

    def record_routing_stats(self) -> dict[str, float]:
        """Report to Serve's routers how much work is ahead here; see `routing/least_work.py`."""
        # Serve asks about once a second; Ray drops a gauge that isn't set for 20 s.
        occupied, info = self._engine.occupied, self._denoiser.info()
        self._metrics.report_gauges(*occupied, self._engine.cap, info)
        return {
            "at": time.time(),
            "ahead_s": self._engine.ahead_s,
            "image_step_s": self._engine.image_step_s,
        }

    def check_health(self) -> None:
        """Tell Serve whether this replica can go on; three failures in a row replace it.

        Raises:
            RuntimeError: a thread of the engine is gone, a call into the device hangs, or
                everything fails.
        """
        if not self._engine.alive:
            raise RuntimeError("a thread of the engine has ended")
        if self._engine.call_age_s > self._options.stuck_after_s:
            raise RuntimeError(f"a device call has lasted {self._engine.call_age_s:.0f} s")
        if self._engine.faults_in_a_row >= _FAULTS_IN_A_ROW:
            raise RuntimeError(f"the last {self._engine.faults_in_a_row} requests failed")

    def __del__(self) -> None:
        # Serve calls this after the last accepted request has been answered.
        if hasattr(self, "_engine"):  # Not where loading failed.
            self._engine.close()
        self._encoder.close()

    def _admit(self, generation: Generation) -> Ticket:
        deadline = _on_own_clock(generation.deadline_at)
        if deadline is not None:
            self._engine.require_feasible(generation, deadline)
        start_s, now = self._engine.forecast(generation).start_s, time.perf_counter()
        refused = refusal(
            start_s,
            self._engine.waiting,
            self._options,
            self._returns.work_s(now),
            random.random(),
        )
        try:
            if refused is not None:
                self._metrics.overloaded(generation)
                work_s = self._engine.work_s(generation)
                self._returns.expect(now + refused.retry_after_s, work_s)
                raise Overloaded(f"{generation.variant}: {refused.reason}", refused.retry_after_s)
            return self._engine.submit(generation, deadline)
        except RetryLater as fault:
            self._metrics.refused_with_retry(generation, fault.code, fault.retry_after_s or 0.0)
            raise

    async def _encode(
        self,
        generation: Generation,
        picture_format: PictureFormat,
        image: int,
        pixels: NDArray[np.uint8],
    ) -> bytes:
        started_at = time.perf_counter()
        parameters = infotext(generation, image) if self._options.png_parameters else None
        note = self._notes[generation.variant]
        picture = await self._encoder.encode(pixels, picture_format, note, parameters)
        self._metrics.encoded(time.perf_counter() - started_at)
        return picture

    def _count_lookups(self) -> None:
        hits, misses = self._denoiser.prompt_lookups
        self._metrics.looked_up(hits - self._lookups[0], misses - self._lookups[1])
        self._lookups = hits, misses


def _on_own_clock(deadline_at: float | None) -> float | None:
    return None if deadline_at is None else time.perf_counter() + deadline_at - time.time()


def _log_done(generation: Generation, timings: Timings) -> None:
    _log.info(
        "%s: %d image(s) %dx%d, %d steps%s: queue %.3f s, denoise %.3f s, decode %.3f s, "
        "encode %.3f s",
        generation.variant,
        len(generation.seeds),
        generation.width_px,
        generation.height_px,
        generation.num_inference_steps,
        "" if generation.source is None else f" at strength {generation.source.strength:g}",
        timings.queue_s,
        timings.denoise_s,
        timings.decode_s,
        timings.encode_s,
    )
