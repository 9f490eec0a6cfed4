import asyncio
from collections.abc import AsyncIterator

import pytest

from serve.generation import PartialPicture, PictureEvent
from serve.http.streaming import with_heartbeats


def event(index: int) -> PartialPicture:
    return PartialPicture(0, index, b"")


class Events:
    """Three events, each when it is let go; remembers whether it was closed."""

    def __init__(self) -> None:
        self.gates = [asyncio.Event() for _ in range(3)]
        self.closed = False

    async def __call__(self) -> AsyncIterator[PictureEvent]:
        try:
            for index, gate in enumerate(self.gates):
                await gate.wait()
                yield event(index)
        finally:
            self.closed = True


async def test_events_come_when_they_are_made_with_heartbeats_between_them() -> None:
    events = Events()
    stream = with_heartbeats(events(), first_s=0.01, then_s=0.01)
    assert await anext(stream) is None
    events.gates[0].set()
    while (first := await anext(stream)) is None:
        pass
    assert first == event(0)
    assert await anext(stream) is None
    for gate in events.gates:
        gate.set()
    rest = [one async for one in stream if one is not None]
    assert rest == [event(1), event(2)]
    assert events.closed


@pytest.mark.parametrize("waits", [True, False], ids=["waiting-for-an-event", "between-events"])
async def test_closing_the_stream_closes_where_the_events_come_from(waits: bool) -> None:
    events = Events()
    stream = with_heartbeats(events(), first_s=0.01, then_s=0.01)
    if not waits:
        events.gates[0].set()
    await anext(stream)
    await stream.aclose()
    assert events.closed


async def test_an_error_passes_through() -> None:
    async def failing() -> AsyncIterator[PictureEvent]:
        yield event(0)
        raise ValueError("gone")

    stream = with_heartbeats(failing())
    assert await anext(stream) == event(0)
    with pytest.raises(ValueError, match="gone"):
        await anext(stream)
