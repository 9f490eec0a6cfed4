"""A stream of pictures as server-sent events, in the Images API's words, with heartbeats."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict
from typing import Any

from ..errors import ServingError
from ..generation import Choice, FinishedPicture, PartialPicture, PictureEvent, PictureFormat
from .base64_json import PICTURE, with_pictures
from .schemas import ErrorBody

# Proxies on the way close connections that are silent for long; the shortest usual limit is 15 s.
HEARTBEAT_S = 5.0
# What fails that soon gets a status of its own; later the stream has begun.
FIRST_EVENT_S = 0.5


async def with_heartbeats(
    events: AsyncIterator[PictureEvent], first_s: float = FIRST_EVENT_S, then_s: float = HEARTBEAT_S
) -> AsyncGenerator[PictureEvent | None, None]:
    """The events, and None whenever none came for so long; the first wait is shorter.

    Closing it closes the events' iterator, whatever that waits for.
    """
    following: asyncio.Future[PictureEvent] | None = None
    try:
        wait_s = first_s
        while True:
            if following is None:
                following = asyncio.ensure_future(anext(events))
            await asyncio.wait({following}, timeout=wait_s)
            wait_s = then_s
            if not following.done():
                yield None
                continue
            try:
                event = following.result()
            except StopAsyncIteration:
                return
            following = None
            yield event
    finally:
        if following is not None and not following.done():
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                await following
        if isinstance(events, AsyncGenerator):
            await events.aclose()


def sse(event: PictureEvent | None, choice: Choice, picture_format: PictureFormat) -> bytes:
    """One event; a comment for None, which clients skip.

    `image_index`, `seed`, `model`, `model_reason`, `timings` and `warnings` are this service's own;
    `usage`, which clients require, is 0, since nothing here is counted in tokens.
    """
    if event is None:
        return b": waiting\n\n"
    generation = choice.generation
    work = "image_generation" if generation.source is None else "image_edit"
    fields: dict[str, Any] = {
        "b64_json": PICTURE,
        "created_at": int(time.time()),
        "size": f"{generation.width_px}x{generation.height_px}",
        "quality": "auto",
        "background": "opaque",
        "output_format": picture_format.output_format,
        "model": generation.variant,
        "model_reason": choice.reason,
        "image_index": event.image,
        "seed": generation.seeds[event.image],
    }
    match event:
        case PartialPicture():
            kind = f"{work}.partial_image"
            fields["partial_image_index"] = event.index
        case FinishedPicture():
            kind = f"{work}.completed"
            fields["timings"] = asdict(event.timings)
            fields["warnings"] = event.warnings
            fields["usage"] = {
                "input_tokens": 0,
                "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
                "output_tokens": 0,
                "total_tokens": 0,
            }
    return with_pictures(_message(kind, {"type": kind, **fields}), [event.picture])


def sse_error(fault: ServingError) -> bytes:
    """What ends a stream that has begun; clients raise on it."""
    error = ErrorBody.of(fault).model_dump()
    return _message("error", {"type": "error", "error": error}).encode()


DONE = b"data: [DONE]\n\n"


def _message(kind: str, fields: dict[str, Any]) -> str:
    return f"event: {kind}\ndata: {json.dumps(fields)}\n\n"
