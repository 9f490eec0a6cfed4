"""The requests of this process, for AUTOMATIC1111's endpoints `progress` and `interrupt`."""

import asyncio
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from ...errors import RequestInterrupted
from ...generation import Drawing, Generation


@dataclass(eq=False)
class _Job:
    """A request under way; `owner` is the name of its API key, if any."""

    owner: str | None
    began_s: float
    generation: Generation
    expected_s: float = math.inf
    task: "asyncio.Task[Drawing] | None" = None


class Jobs:
    """The requests of this process, for progress and interruption; each key sees its own."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._jobs: list[_Job] = []

    async def run(
        self,
        owner: str | None,
        generation: Generation,
        forecast: Callable[[], Coroutine[Any, Any, float]],
        draw: Callable[[], Coroutine[Any, Any, Drawing]],
    ) -> Drawing:
        """Draw, until it is done or `interrupt` ends it.

        Args:
            owner: the name of the request's API key, if any.
            generation: the request.
            forecast: asks how long it is going to take; infinite where that is unknown.
            draw: draws it.

        Raises:
            RequestInterrupted: its owner ended it.
        """
        job = _Job(owner, self._clock_s(), generation)
        self._jobs.append(job)

        async def forecast_and_draw() -> Drawing:
            job.expected_s = await forecast()
            return await draw()

        task = job.task = asyncio.create_task(forecast_and_draw())
        try:
            return await task
        except asyncio.CancelledError:
            if job in self._jobs:
                task.cancel()  # The client has gone.
                raise
            raise RequestInterrupted("interrupted by /sdapi/v1/interrupt") from None
        finally:
            if job in self._jobs:
                self._jobs.remove(job)

    def interrupt(self, owner: str | None) -> None:
        """End all requests of an owner; elsewhere this is the one picture that is being drawn."""
        for job in [job for job in self._jobs if job.owner == owner]:
            self._jobs.remove(job)
            if job.task is not None:
                job.task.cancel()

    def progress(self, owner: str | None) -> dict[str, Any]:
        """How far the owner's oldest request is, by the time that it was expected to take."""
        job = next((job for job in self._jobs if job.owner == owner), None)
        share, left_s = 0.0, 0.0
        if job is not None and 0 < job.expected_s < math.inf:
            took_s = self._clock_s() - job.began_s
            # Never quite done, however wrong the forecast was.
            share = min(took_s / job.expected_s, 0.99)
            left_s = max(job.expected_s - took_s, 0.0)
        kind, images, steps = "", 0, 0
        if job is not None:
            drawn = job.generation
            kind = "txt2img" if drawn.source is None else "img2img"
            # As there, an edit's are those that its strength leaves.
            images, steps = len(drawn.seeds), drawn.num_inference_steps - drawn.first_step
        state = {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": kind,
            "job_count": images,
            "job_timestamp": "0",
            "job_no": 0,
            "sampling_step": int(share * steps),
            "sampling_steps": steps,
        }
        return {
            "progress": share,
            "eta_relative": left_s,
            "state": state,
            "current_image": None,
            "textinfo": None,
        }
