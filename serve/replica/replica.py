"""VariantReplica: the thin actor round an engine; a deployment hosts one variant or several."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..engine.slots import Policy
from ..engine.tickets import Finished, Preview, Ticket
from ..errors import Overloaded, RetryLater
from ..generation import (
    Drawing,
    FinishedPicture,
    Generation,
    PartialPicture,
    PictureEvent,
    PictureFormat,
    Timings,
    infotext,
)
from ..metrics import ReplicaMetrics
from ..variants import Variant
from .admission import Limits, Returns, refusal
from .encoding import Encoder
from .startup import LoadDenoiser, start

_log = logging.getLogger("ray.serve")
# So many failures and no success between them: the device is at fault, not the requests.
_FAULTS_IN_A_ROW = 5
# How often a shadow looks whether somebody else has come.
_LOOK_ROUND_S = 0.02


@dataclass(frozen=True, slots=True)
class ReplicaSettings:
    """How a replica works; a sweep at start-up finds the `slots` where they are None.

    `safety_checker` says whether the denoiser flags pictures.
    """

    policy: Policy
    slots: int | None
    limits: Limits
    stuck_after_s: float
    png_parameters: bool
    safety_checker: bool


class VariantReplica:
    """Draws with the variants it hosts. Loaded and warm once constructed, so RUNNING means ready.

    `notes` are what everybody who sees a variant's picture must know of its weights: they go into
    every picture's Exif and every reply's warnings.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors.
        self,
        variants: Sequence[Variant],
        load: LoadDenoiser,
        settings: ReplicaSettings,
        notes: Mapping[str, str | None],
    ) -> None:
        self._notes = notes
        self._stuck_after_s = settings.stuck_after_s
        self._limits = settings.limits
        self._returns = Returns()
        self._png_parameters = settings.png_parameters
        self._safety_checker = settings.safety_checker
        self._metrics = ReplicaMetrics()
        self._lookups = 0, 0
        self._encoder = Encoder()
        self._denoiser, self._engine = await start(
            variants, load, settings.policy, settings.slots, self._encoder, self._metrics
        )

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        """Draw one request's pictures, each encoded when it is done; cancelled with the caller.

        Raises:
            EngineClosed: the replica is shutting down.
            Overloaded: the queue is too long.
            DeadlineUnreachable: with the work ahead the request would be late.
            DeadlineExceeded: its deadline passed meanwhile.
            OutOfDeviceMemory: not even one of its images alone had room.
            NotFinite: the model made something that is not a picture.
            Flagged: the safety checker flagged every picture.
        """
        ticket = self._admit(generation)
        pictures = await self._encode_as_they_come(ticket, picture_format)
        result = await ticket.result()
        timings = Timings(
            queue_s=result.queue_s,
            denoise_s=result.denoise_s,
            decode_s=result.decode_s,
            encode_s=max(
                0.0,
                time.perf_counter()
                - ticket.submitted_at
                - (result.queue_s + result.denoise_s + result.decode_s),
            ),
        )
        self._count_lookups()
        _log.info(
            "%s: %d image(s) %dx%d, %d steps: queue %.3f s, denoise %.3f s, decode %.3f s, "
            "encode %.3f s",
            generation.variant,
            len(generation.seeds),
            generation.width_px,
            generation.height_px,
            generation.num_inference_steps,
            timings.queue_s,
            timings.denoise_s,
            timings.decode_s,
            timings.encode_s,
        )
        return Drawing(
            tuple(pictures.get(image) for image in range(len(generation.seeds))),
            timings,
            self._told(ticket),
        )

    async def stream(
        self, generation: Generation, picture_format: PictureFormat
    ) -> AsyncIterator[PictureEvent]:
        """Draw one request's pictures and tell them, and their previews, as they are made.

        A flagged picture isn't told, but the others' warnings say so. Where there is a safety
        checker, each picture therefore waits for the next: the last one knows of all.

        Raises what `draw` raises. Closing it frees the device.
        """
        ticket = self._admit(generation)
        waiting: FinishedPicture | None = None  # Until it is known whether the next is flagged.
        try:
            async for event in ticket.events():
                if isinstance(event, Preview):
                    picture = await self._encode(event.image, event.pixels, ticket, picture_format)
                    index = ticket.plan.previews_at.index(event.step)
                    yield PartialPicture(event.image, index, picture)
                elif isinstance(event, Finished):
                    if event.pixels is None:
                        self._metrics.flagged(generation)
                        continue
                    started_at = time.perf_counter()
                    picture = await self._encode(event.image, event.pixels, ticket, picture_format)
                    timings = Timings(
                        queue_s=event.queue_s,
                        denoise_s=event.denoise_s,
                        decode_s=event.decode_s,
                        encode_s=time.perf_counter() - started_at,
                    )
                    finished = FinishedPicture(event.image, picture, timings, self._told(ticket))
                    if waiting is not None:
                        yield waiting
                    if self._safety_checker:
                        waiting = finished
                    else:
                        yield finished
            if waiting is not None:
                yield replace(waiting, warnings=self._told(ticket))
            await ticket.result()  # Raises, where the job has failed.
        finally:
            ticket.cancel()
        self._count_lookups()

    async def forecast(self, generation: Generation) -> float:
        """How many seconds a request would take here if it came now."""
        return self._engine.forecast(generation).finish_s

    async def shadow(self, generation: Generation, picture_format: PictureFormat) -> Drawing | None:
        """Draw to compare, while nobody else wants the device; None once somebody does."""
        if self._engine.unfinished:
            return None
        drawing = asyncio.create_task(self.draw(generation, picture_format))
        try:
            while not drawing.done():
                await asyncio.wait({drawing}, timeout=_LOOK_ROUND_S)
                if self._engine.unfinished > 1:
                    return None
            return drawing.result()
        finally:
            drawing.cancel()

    def record_routing_stats(self) -> dict[str, float]:
        """Tell Serve's routers how much work is ahead here; see `routing/least_work.py`."""
        # Serve asks about once a second; Ray drops a gauge that isn't set for 20 s.
        self._metrics.report_gauges(*self._engine.occupied, self._engine.cap)
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
        if self._engine.call_age_s > self._stuck_after_s:
            raise RuntimeError(f"a device call has lasted {self._engine.call_age_s:.0f} s")
        if self._engine.faults_in_a_row >= _FAULTS_IN_A_ROW:
            raise RuntimeError(f"the last {self._engine.faults_in_a_row} requests failed")

    def __del__(self) -> None:
        # Serve calls this after the last accepted request has been answered.
        if hasattr(self, "_engine"):  # Not where loading failed.
            self._engine.close()
        self._encoder.close()

    def _admit(self, generation: Generation) -> Ticket:
        start_s, now = self._engine.forecast(generation).start_s, time.perf_counter()
        refused = refusal(
            start_s,
            self._engine.waiting,
            self._limits,
            self._returns.work_s(now),
            random.random(),
        )
        try:
            if refused is not None:
                self._metrics.overloaded(generation)
                work_s = self._engine.work_s(generation)
                self._returns.expect(now + refused.retry_after_s, work_s)
                raise Overloaded(f"{generation.variant}: {refused.reason}", refused.retry_after_s)
            return self._engine.submit(generation, _on_own_clock(generation.deadline_at))
        except RetryLater as fault:
            self._metrics.told_to_retry(generation, fault.code, fault.retry_after_s or 0.0)
            raise

    async def _encode_as_they_come(
        self, ticket: Ticket, picture_format: PictureFormat
    ) -> dict[int, bytes]:
        """The pictures by number, without those that were flagged."""
        encodings: dict[int, asyncio.Task[bytes]] = {}
        try:
            async for event in ticket.events():
                if not isinstance(event, Finished):
                    continue
                if event.pixels is None:
                    self._metrics.flagged(ticket.job)
                    continue
                encodings[event.image] = asyncio.create_task(
                    self._encode(event.image, event.pixels, ticket, picture_format)
                )
            return {image: await encoding for image, encoding in encodings.items()}
        finally:
            # Where the caller has gone.
            ticket.cancel()
            for encoding in encodings.values():
                encoding.cancel()

    async def _encode(
        self, image: int, pixels: NDArray[np.uint8], ticket: Ticket, picture_format: PictureFormat
    ) -> bytes:
        started_at = time.perf_counter()
        parameters = infotext(ticket.job, image) if self._png_parameters else None
        note = self._notes[ticket.job.variant]
        picture = await self._encoder.encode(pixels, picture_format, note, parameters)
        self._metrics.encoded(time.perf_counter() - started_at)
        return picture

    def _told(self, ticket: Ticket) -> tuple[str, ...]:
        """What the client should know of its request."""
        note = self._notes[ticket.job.variant]
        flagged = [
            f"image {image} (seed {ticket.job.seeds[image]}): flagged by the safety checker, "
            "and left out"
            for image in ticket.flagged
        ]
        return (*ticket.warnings, *flagged, *(() if note is None else (note,)))

    def _count_lookups(self) -> None:
        hits, misses = self._denoiser.prompt_lookups
        self._metrics.looked_up(hits - self._lookups[0], misses - self._lookups[1])
        self._lookups = hits, misses


def _on_own_clock(deadline_at: float | None) -> float | None:
    return None if deadline_at is None else time.perf_counter() + deadline_at - time.time()
