"""This checkout and this machine: where it lies, what is free, and how long is too long."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from loadtests.machine import free_port as free_port

ROOT = Path(__file__).parents[1]
# Against hangs only: a machine that is busy may take this long for what takes a second.
HANG_S = 120.0


def wait_for(condition: Callable[[], object], deadline_s: float = HANG_S) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the deadline passed"
        time.sleep(0.02)


async def until(condition: Callable[[], object]) -> None:
    """Like `wait_for`, on an event loop."""
    async with asyncio.timeout(HANG_S):
        while not condition():
            await asyncio.sleep(0.002)
