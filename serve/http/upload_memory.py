"""Bounds the memory that clients' pictures take while they are read, decoded and scaled."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from ..errors import TooManyRequests
from .edit_schemas import upload_bytes
from .options import HttpOptions

# Of the largest bodies of edits, 32 MiB each by default. Reading takes up to twice as much
# (docs/security.md has the sum); pictures of 1 MiB are read by the hundred.
_BODIES = 4
# Decoded pictures that may wait until the variant is chosen and they are scaled: 64 MiB each.
_DECODED = 4
# Few: a picture of 4096x4096 px takes up to 385 MiB while it is decoded.
_READERS = ThreadPoolExecutor(2, "read pictures")

ReadT = TypeVar("ReadT")


class UploadMemory:
    """The memory of one router process for pictures on their way in.

    Counted by requests' Content-Length, since edits of small pictures come in bursts that need
    little of it.
    """

    def __init__(self, options: HttpOptions) -> None:
        self._options = options
        self._free_bytes = _BODIES * upload_bytes(options)
        self._decoded = asyncio.Semaphore(_DECODED)

    @contextlib.asynccontextmanager
    async def reserve(
        self, headers: Mapping[str, str], most_bytes: int
    ) -> AsyncIterator["Reservation"]:
        """Reserve memory for a body of at most `most_bytes`, until it is scaled or refused.

        Raises:
            TooManyRequests: there isn't as much left; nothing of the body has been read.
        """
        declared = headers.get("content-length", "")
        body_bytes = min(int(declared), most_bytes) if declared.isdecimal() else most_bytes
        if body_bytes > self._free_bytes:
            raise TooManyRequests(
                f"body: {body_bytes} bytes of pictures were given, for which there is no memory "
                "while the pictures of other requests are read; retry when they have been",
                self._options.retry_after_s,
            )
        self._free_bytes -= body_bytes
        async with contextlib.AsyncExitStack() as held:
            held.callback(self._release, body_bytes)
            yield Reservation(body_bytes, time.monotonic(), self._options, self._decoded, held)

    def _release(self, body_bytes: int) -> None:
        self._free_bytes += body_bytes


@dataclass
class Reservation:
    """One request's share of the memory: `max_bytes` of body, and what they become."""

    max_bytes: int
    _began_s: float
    _options: HttpOptions
    _decoded: asyncio.Semaphore
    _held: contextlib.AsyncExitStack

    async def decode(self, call: Callable[..., ReadT], *arguments: object) -> ReadT:
        """Read a picture on a thread, when few others are decoded and not yet scaled."""
        await self._held.enter_async_context(self._decoded)
        return await _on_a_thread(call, *arguments)

    async def scale(self, call: Callable[..., ReadT], *arguments: object) -> ReadT:
        """Scale the picture on a thread, and release all that was reserved."""
        scaled = await _on_a_thread(call, *arguments)
        await self._held.aclose()
        return scaled

    def limits(self) -> HttpOptions:
        """The options, with what the upload took so far taken from `max_request_s`.

        A slow upload would else end only after Serve's own limit for the whole request.
        """
        most_s, took_s = self._options.max_request_s, time.monotonic() - self._began_s
        left_s = None if most_s is None else max(0.0, most_s - took_s)
        return self._options.model_copy(update={"max_request_s": left_s})


async def _on_a_thread(call: Callable[..., ReadT], *arguments: object) -> ReadT:
    work = asyncio.get_running_loop().run_in_executor(_READERS, call, *arguments)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        # The client has gone, but the thread still has its picture.
        await asyncio.wait([work])
        raise
