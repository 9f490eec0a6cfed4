"""So many users at once, each of whom asks again as soon as it has its answer."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Loop:
    """A closed loop as it went: each request's latency, and how long all of it took."""

    latencies_s: tuple[float, ...]
    seconds: float

    @property
    def per_s(self) -> float:
        """Requests a second."""
        return len(self.latencies_s) / self.seconds


async def closed_loop(
    ask: Callable[[int], Awaitable[None]], users: int, requests: Iterable[int]
) -> Loop:
    """Ask for every request once, by its number; raises what `ask` raises."""
    latencies_s: list[float] = []
    waiting = iter(requests)

    async def use() -> None:
        for request in waiting:
            asked_at = time.perf_counter()
            await ask(request)
            latencies_s.append(time.perf_counter() - asked_at)

    started_at = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(users):
            group.create_task(use())
    return Loop(tuple(latencies_s), time.perf_counter() - started_at)


def for_seconds(seconds: float) -> Iterator[int]:
    """Request numbers, for so long."""
    end_at = time.perf_counter() + seconds
    request = 0
    while time.perf_counter() < end_at:
        yield request
        request += 1
