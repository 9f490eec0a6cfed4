"""The replicas of a variant, as the router calls them, and what Ray's errors mean.

`RayReplicas` is the only place that calls a Serve handle; the router sees this project's errors.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle

from ..errors import EngineClosed, Overloaded, VariantUnavailable, shown
from ..generation import Drawing, Generation, PictureEvent, PictureFormat
from ..replica_info import ReplicaInfo

_log = logging.getLogger("ray.serve")


class ReplicaLost(Exception):
    """The replica died or was stopped before it had answered; another can try."""


class Replicas(Protocol):
    """The replicas of a deployment, one of which gets each call."""

    @property
    def deployment(self) -> str:
        """The deployment's name."""

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        """Draw a request's pictures; raises `ReplicaLost` and `ServingError`."""

    def stream(
        self, generation: Generation, picture_format: PictureFormat
    ) -> AsyncIterator[PictureEvent]:
        """Draw, and yield each picture once it is there; raises what `draw` raises."""

    async def forecast(self, generation: Generation) -> float:
        """Seconds that a request would take; raises what `draw` raises."""

    async def info(self) -> ReplicaInfo:
        """What a replica runs on, and its memory; raises what `draw` raises."""


class RayReplicas:
    """The replicas behind a Serve handle.

    `retry_after_s` is when to come back to full or missing replicas where Serve doesn't say.
    """

    def __init__(self, handle: DeploymentHandle, retry_after_s: float) -> None:
        self._handle = handle
        # Already now: from here on the handle learns of its replicas. At the first request the
        # controller might be away, and the request would wait for it without a bound.
        self._draw, self._forecast = handle.draw, handle.forecast
        self._stream = handle.options(stream=True).stream
        self._retry_after_s = retry_after_s

    @property
    def deployment(self) -> str:
        """The deployment's name."""
        name: str = self._handle.deployment_name
        return name

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        """Draw a request's pictures.

        Raises:
            ReplicaLost: the replica died or was stopped meanwhile.
            Overloaded: the variant's queue is full.
            VariantUnavailable: none took it in time, or none can be started.
            ServingError: whatever the replica raised.
        """
        response = self._draw.remote(generation, picture_format)
        drawing: Drawing = await self._answer(response, generation.variant)
        return drawing

    async def stream(
        self, generation: Generation, picture_format: PictureFormat
    ) -> AsyncIterator[PictureEvent]:
        """Draw, and yield each picture once it is there; raises what `draw` raises."""
        events = self._stream.remote(generation, picture_format)
        try:
            with self._own_errors(generation.variant):
                async for event in events:
                    yield event
        finally:
            _end(events)  # Where the client has gone.

    async def forecast(self, generation: Generation) -> float:
        """Seconds that a request would take on the replica with the least work ahead.

        Raises:
            VariantUnavailable: there is no replica; it doesn't wait for one.
            Exception: what `draw` raises.
        """
        response = self._forecast.remote(generation)
        seconds: float = await self._answer(response, generation.variant)
        return seconds

    async def info(self) -> ReplicaInfo:
        """What the replica with the least work ahead runs on, and its memory."""
        info: ReplicaInfo = await self._answer(self._handle.info.remote(), self.deployment)
        return info

    async def _answer(self, response: Any, variant: str) -> Any:
        """Wait for a replica's answer; where nobody waits any more, end its call, too."""
        try:
            with self._own_errors(variant):
                return await response
        except asyncio.CancelledError:
            _end(response)
            raise

    @contextlib.contextmanager
    def _own_errors(self, variant: str) -> Iterator[None]:
        try:
            yield
        except BackPressureError as fault:
            raise Overloaded(
                f"the queue of {shown(variant)} is full; retry later",
                fault.retry_after_s or self._retry_after_s,
            ) from None
        except (RayActorError, ReplicaUnavailableError, EngineClosed) as fault:
            _log.warning("%s: replica lost: %s", variant, type(fault).__name__)
            raise ReplicaLost(variant) from None
        except DeploymentUnavailableError:
            raise unavailable(variant, self._retry_after_s) from None
        except RayTaskError as fault:
            # Ray's wrapper has the class of what was raised, but not its arguments.
            raise fault.cause from None


def _end(call: Any) -> None:
    """Cancel a call of a handle, whatever has become of it."""
    with contextlib.suppress(Exception):  # One that no replica took raises its error here again.
        call.cancel()


def unavailable(variant: str, retry_after_s: float) -> VariantUnavailable:
    """The error where no replica of a variant answers."""
    return VariantUnavailable(
        f"no replica of {shown(variant)} could answer; retry later", retry_after_s
    )
