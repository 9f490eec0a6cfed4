"""Repeats a share of the pinned requests on a second variant, to compare: never for the client.

The second picture is drawn from the same seed, only where a replica is idle, and dropped as soon as
anybody else wants that replica. What comes of it are times and likeness, in metrics and the log.
"""

import asyncio
import hashlib
import io
import logging
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from ..generation import Drawing, Generation

_log = logging.getLogger("ray.serve")
# What a router repeats at once: comparisons are no hurry.
_AT_ONCE = 1


class ShadowPolicy(BaseModel):
    """`{variant: distilled, share: 0.1}`: what is repeated where."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    variant: str = Field(description="that repeats the requests of the other variants")
    share: float = Field(gt=0, le=1, description="of their requests")


class ShadowMetrics(Protocol):
    """Where the comparisons go."""

    def shadowed(self, pinned: str, shadow: str, psnr_db: float, time_ratio: float) -> None:
        """A pair was drawn: how alike, and the second one's time over the first one's."""

    def shadow_dropped(self, pinned: str, shadow: str) -> None:
        """There was no idle room, or no longer."""


class Shadow:
    """Decides which requests are repeated, and compares what comes of it."""

    def __init__(
        self,
        policy: ShadowPolicy,
        draw: Callable[[Generation], Awaitable[Drawing | None]],
        metrics: ShadowMetrics,
    ) -> None:
        self._policy = policy
        self._draw = draw
        self._metrics = metrics
        self._under_way: set[asyncio.Task[None]] = set()

    def consider(self, request_id: str, generation: Generation, drawing: Drawing) -> None:
        """Repeat this request, if it is its turn; returns at once.

        Whose turn it is depends on the request's id alone, so that a repetition is one again.
        """
        digest = hashlib.sha256(f"shadow {request_id}".encode()).digest()
        chosen = int.from_bytes(digest[:8], "big") / 2**64 < self._policy.share
        if not chosen or generation.variant == self._policy.variant:
            return
        if len(self._under_way) >= _AT_ONCE:
            self._metrics.shadow_dropped(generation.variant, self._policy.variant)
            return
        task = asyncio.create_task(self._compare(generation, drawing))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _compare(self, generation: Generation, drawing: Drawing) -> None:
        second = self._policy.variant
        try:
            shadow = await self._draw(replace(generation, variant=second, deadline_at=None))
            if shadow is None:
                self._metrics.shadow_dropped(generation.variant, second)
                return
            psnr_db = await asyncio.to_thread(likeness_db, drawing, shadow)
        except Exception as fault:
            # Whatever happens to it: nobody waits for it.
            _log.info("shadow of %s on %s: %s", generation.variant, second, type(fault).__name__)
            self._metrics.shadow_dropped(generation.variant, second)
            return
        ratio = _seconds(shadow) / max(_seconds(drawing), 1e-9)
        self._metrics.shadowed(generation.variant, second, psnr_db, ratio)
        _log.info(
            "shadow of %s on %s: seed %d, %.1f dB, %.2f of the time",
            generation.variant, second, generation.seeds[0], psnr_db, ratio,
        )  # fmt: skip


def likeness_db(one: Drawing, other: Drawing) -> float:
    """PSNR over the pictures that both drawings have; infinite where they are equal.

    Raises:
        ValueError: the safety checker has left no such pair.
    """
    errors = [
        np.mean((_pixels(a) - _pixels(b)) ** 2)
        for a, b in zip(one.pictures, other.pictures, strict=True)
        if a is not None and b is not None
    ]
    if not errors:
        raise ValueError("no picture that both drawings have")
    error = np.mean(errors)
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def _pixels(picture: bytes) -> "np.typing.NDArray[np.float64]":
    with Image.open(io.BytesIO(picture)) as image:
        return np.asarray(image.convert("RGB"), np.float64)


def _seconds(drawing: Drawing) -> float:
    return drawing.timings.denoise_s + drawing.timings.decode_s
