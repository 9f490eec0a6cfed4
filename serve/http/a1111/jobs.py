"""The requests of this process, for AUTOMATIC1111's endpoints `progress` and `interrupt`."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...errors import RequestInterrupted
from ...generation import Drawing, Generation

# How much the last request's pace counts in the estimate of the next one's.
_WEIGHT = 0.3


@dataclass(eq=False)
class _Job:
    """A request under way; `owner` is the name of its API key, if any."""

    owner: str | None
    began_s: float
    generation: Generation
    task: "asyncio.Task[Drawing]"


class Jobs:
    """The requests of this process, for progress and interruption; each key sees its own."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._jobs: list[_Job] = []
        self._image_step_s: float | None = None

    async def run(
        self, owner: str | None, generation: Generation, draw: Callable[[], Any]
    ) -> Drawing:
        """Draw, until it is done or `interrupt` ends it.

        Raises:
            RequestInterrupted: its owner ended it.
        """
        task = asyncio.ensure_future(draw())
        job = _Job(owner, self._clock_s(), generation, task)
        self._jobs.append(job)
        try:
            drawing: Drawing = await task
        except asyncio.CancelledError:
            if job in self._jobs:
                task.cancel()  # The client has gone.
                raise
            raise RequestInterrupted("interrupted by /sdapi/v1/interrupt") from None
        finally:
            if job in self._jobs:
                self._jobs.remove(job)
        pace_s = (self._clock_s() - job.began_s) / generation.image_steps
        before_s = pace_s if self._image_step_s is None else self._image_step_s
        self._image_step_s = (1 - _WEIGHT) * before_s + _WEIGHT * pace_s
        return drawing

    def interrupt(self, owner: str | None) -> None:
        """End all requests of an owner; elsewhere this is the one picture that is being drawn."""
        for job in [job for job in self._jobs if job.owner == owner]:
            self._jobs.remove(job)
            job.task.cancel()

    def progress(self, owner: str | None) -> dict[str, Any]:
        """Of the owner's oldest request: an estimate from the pace of this process's last ones."""
        job = next((job for job in self._jobs if job.owner == owner), None)
        share, left_s = 0.0, 0.0
        if job is not None and self._image_step_s is not None:
            took_s = self._clock_s() - job.began_s
            expected_s = job.generation.image_steps * self._image_step_s
            # Never quite done, however wrong the estimate was.
            share, left_s = min(took_s / expected_s, 0.99), max(expected_s - took_s, 0.0)
        images = 0 if job is None else len(job.generation.seeds)
        steps = 0 if job is None else job.generation.num_inference_steps
        state = {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": "" if job is None else "txt2img",
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
