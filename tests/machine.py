"""This checkout and this machine: where it lies, what is free, and how long is too long."""

import asyncio
import socket
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Against hangs only: a machine that is busy may take this long for what takes a second.
HANG_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
