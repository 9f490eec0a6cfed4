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
    """A request under way: whose, since when, how much work, and its task."""

    owner: str | None
    began_s: float
    image_steps: int
    images: int
    steps: int
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
        images, steps = len(generation.seeds), generation.num_inference_steps
        task = asyncio.ensure_future(draw())
        job = _Job(owner, self._clock_s(), images * steps, images, steps, task)
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
        pace_s = (self._clock_s() - job.began_s) / job.image_steps
        before_s = pace_s if self._image_step_s is None else self._image_step_s
        self._image_step_s = (1 - _WEIGHT) * before_s + _WEIGHT * pace_s
        return drawing

    def interrupt(self, owner: str | None) -> None:
        """End all requests of an owner; elsewhere this is the one picture that is being drawn."""
        for job in [one for one in self._jobs if one.owner == owner]:
            self._jobs.remove(job)
            job.task.cancel()

    def progress(self, owner: str | None) -> dict[str, Any]:
        """Of the owner's oldest request: an estimate from the pace of this process's last ones."""
        own = [one for one in self._jobs if one.owner == owner]
        share, left_s = 0.0, 0.0
        if own and self._image_step_s is not None:
            took_s = self._clock_s() - own[0].began_s
            expected_s = own[0].image_steps * self._image_step_s
            # Never quite done, however wrong the estimate was.
            share, left_s = min(took_s / expected_s, 0.99), max(expected_s - took_s, 0.0)
        images, steps = (own[0].images, own[0].steps) if own else (0, 0)
        state = {
            "skipped": False,
            "interrupted": False,
            "stopping_generation": False,
            "job": "txt2img" if own else "",
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
