"""A job's pictures on their way out of the engine: encoded as they are done, in order.

`picture_events` is what a stream yields; `collect` makes the reply of a request that waits for all.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..engine.tickets import Finished, Preview, Ticket
from ..generation import Drawing, FinishedPicture, PartialPicture, PictureEvent, Timings

EncodePicture = Callable[[int, NDArray[np.uint8]], Coroutine[None, None, bytes]]


async def picture_events(
    ticket: Ticket, encode: EncodePicture, note: str | None, *, hold_back: bool
) -> AsyncGenerator[PictureEvent, None]:
    """Yield a job's pictures, and their previews, as they are made; encodings run side by side.

    A flagged picture isn't yielded, but the warnings of later ones say so. With `hold_back` each
    picture waits for the next, so that the last one knows of all that were flagged. Closing it
    cancels the job.

    Args:
        ticket: the job.
        encode: encodes a picture, given its number.
        note: what goes into every picture's warnings.
        hold_back: whether the job's pictures may be flagged.

    Raises:
        ServingError: the job's own error, once its events are through.
    """
    encodings: asyncio.Queue[asyncio.Task[PictureEvent] | None] = asyncio.Queue()
    begun: list[asyncio.Task[PictureEvent]] = []

    async def encode_all() -> None:
        try:
            async for event in ticket.events():
                if isinstance(event, Preview):
                    encoding = asyncio.create_task(_partial(event, ticket, encode))
                elif isinstance(event, Finished) and event.pixels is not None:
                    encoding = asyncio.create_task(_finished(event, event.pixels, encode))
                else:
                    continue
                begun.append(encoding)
                encodings.put_nowait(encoding)
        finally:
            encodings.put_nowait(None)

    feeding = asyncio.create_task(encode_all())
    held_back: FinishedPicture | None = None
    try:
        while (encoding := await encodings.get()) is not None:
            event = await encoding
            if isinstance(event, PartialPicture):
                yield event
                continue
            finished = replace(event, warnings=_warnings(ticket, note))
            if not hold_back:
                yield finished
                continue
            if held_back is not None:
                yield held_back
            held_back = finished
        await feeding
        if held_back is not None:
            yield replace(held_back, warnings=_warnings(ticket, note))
        await ticket.result()  # Raises where the job has failed.
    finally:
        ticket.cancel()
        for task in (feeding, *begun):
            task.cancel()


async def collect(events: AsyncIterator[PictureEvent], images: int) -> Drawing:
    """The whole reply of a job of so many images; the last picture has all the warnings."""
    finished = [event async for event in events if isinstance(event, FinishedPicture)]
    pictures = {event.image: event.picture for event in finished}
    return Drawing(
        pictures=tuple(pictures.get(image) for image in range(images)),
        timings=request_timings([event.timings for event in finished]),
        warnings=finished[-1].warnings,
    )


def request_timings(timings: Sequence[Timings]) -> Timings:
    """A request's times from its pictures': each stage lasts until its last picture has left it."""
    begun_s = min(times.queue_s for times in timings)
    denoised_s = max(times.queue_s + times.denoise_s for times in timings)
    decoded_s = max(times.queue_s + times.denoise_s + times.decode_s for times in timings)
    encoded_s = max(
        times.queue_s + times.denoise_s + times.decode_s + times.encode_s for times in timings
    )
    return Timings(
        queue_s=begun_s,
        denoise_s=denoised_s - begun_s,
        decode_s=decoded_s - denoised_s,
        encode_s=encoded_s - decoded_s,
    )


async def _partial(event: Preview, ticket: Ticket, encode: EncodePicture) -> PictureEvent:
    index = ticket.plan.previews_at.index(event.step)
    return PartialPicture(event.image, index, await encode(event.image, event.pixels))


async def _finished(
    event: Finished, pixels: NDArray[np.uint8], encode: EncodePicture
) -> PictureEvent:
    started_at = time.perf_counter()
    picture = await encode(event.image, pixels)
    timings = Timings(
        queue_s=event.queue_s,
        denoise_s=event.denoise_s,
        decode_s=event.decode_s,
        encode_s=time.perf_counter() - started_at,
    )
    return FinishedPicture(event.image, picture, timings, ())


def _warnings(ticket: Ticket, note: str | None) -> tuple[str, ...]:
    """What the client should know of its request."""
    flagged = [
        f"image {image} (seed {ticket.job.seeds[image]}): flagged by the safety checker, "
        "and left out"
        for image in ticket.flagged
    ]
    return (*ticket.job.warnings, *ticket.warnings, *flagged, *(() if note is None else (note,)))
