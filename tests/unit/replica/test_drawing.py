"""A job's events become encoded pictures, without Ray and without an engine."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serve.engine.tickets import Event, Finished, Preview
from serve.generation import FinishedPicture, PartialPicture, Timings
from serve.replica.drawing import collect, picture_events, request_timings
from tests.fakes import generation
from tests.machine import HANG_S

PIXELS = np.zeros((8, 8, 3), np.uint8)


class FakeTicket:
    """A job of three images whose events are there already."""

    def __init__(self, *events: Event) -> None:
        self.job = generation(seeds=(5, 6, 7), warnings=("a quality without effect",))
        self.plan = SimpleNamespace(previews_at=(2, 4))
        self.warnings = ("a cut prompt",)
        self.flagged = [
            event.image for event in events if isinstance(event, Finished) and event.pixels is None
        ]
        self.cancelled = False
        self._events = events

    async def events(self) -> AsyncIterator[Event]:
        for event in self._events:
            yield event

    async def result(self) -> None:
        pass

    def cancel(self) -> None:
        self.cancelled = True


def finished(image: int, pixels: NDArray[np.uint8] | None = PIXELS) -> Finished:
    return Finished(image, pixels, queue_s=0.1, denoise_s=0.2, decode_s=0.3)


async def encode(image: int, pixels: NDArray[np.uint8]) -> bytes:
    return f"picture {image}".encode()


def events(ticket: FakeTicket, encode: Any = encode, *, hold_back: bool = False) -> Any:
    return picture_events(ticket, encode, "random weights", hold_back=hold_back)  # type: ignore[arg-type]


async def test_pictures_are_encoded_side_by_side_and_come_in_order() -> None:
    second_has_begun = asyncio.Event()

    async def first_last(image: int, pixels: NDArray[np.uint8]) -> bytes:
        if image == 0:
            await asyncio.wait_for(second_has_begun.wait(), HANG_S)
        else:
            second_has_begun.set()
        return await encode(image, pixels)

    ticket = FakeTicket(finished(0), finished(1))
    found = [event async for event in events(ticket, first_last)]
    assert [event.picture for event in found] == [b"picture 0", b"picture 1"]


async def test_previews_are_counted_from_the_first_that_was_planned() -> None:
    ticket = FakeTicket(Preview(0, 4, PIXELS), finished(0))
    first, second = [event async for event in events(ticket)]
    assert first == PartialPicture(0, 1, b"picture 0")
    assert isinstance(second, FinishedPicture)


async def test_the_last_picture_knows_of_all_that_were_flagged() -> None:
    ticket = FakeTicket(finished(0), finished(1), finished(2, pixels=None))
    drawing = await collect(events(ticket, hold_back=True), 3)
    assert drawing.pictures == (b"picture 0", b"picture 1", None)
    assert drawing.warnings == (
        "a quality without effect",
        "a cut prompt",
        "image 2 (seed 7): flagged by the safety checker, and left out",
        "random weights",
    )


async def test_closing_it_cancels_the_job_and_what_is_being_encoded() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def hanging(image: int, pixels: NDArray[np.uint8]) -> bytes:
        if image == 0:
            await begun.wait()
            return b"picture 0"
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return b""

    ticket = FakeTicket(finished(0), finished(1))
    stream = events(ticket, hanging)
    await anext(stream)
    await stream.aclose()
    await asyncio.wait_for(cancelled.wait(), HANG_S)
    assert ticket.cancelled


async def test_an_encoding_that_fails_ends_the_stream_with_its_error() -> None:
    async def failing(image: int, pixels: NDArray[np.uint8]) -> bytes:
        raise OSError("no memory for the buffer")

    ticket = FakeTicket(finished(0))
    with pytest.raises(OSError, match="no memory"):
        [event async for event in events(ticket, failing)]
    assert ticket.cancelled


@pytest.mark.parametrize(
    ("pictures", "whole"),
    [
        pytest.param([Timings(1, 2, 3, 4)], Timings(1, 2, 3, 4), id="one"),
        pytest.param(
            # The second gets a slot later, and is done later in every stage.
            [Timings(1, 2, 3, 4), Timings(3, 4, 5, 6)], Timings(1, 6, 5, 6), id="one-after-another"
        ),
        pytest.param(
            [Timings(1, 2, 1, 9), Timings(1, 4, 1, 1)], Timings(1, 4, 1, 7), id="a-slow-encoding"
        ),
    ],
)  # fmt: skip
def test_a_requests_times_add_up_to_the_time_of_its_last_picture(
    pictures: Sequence[Timings], whole: Timings
) -> None:
    assert request_timings(pictures) == whole
