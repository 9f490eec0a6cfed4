"""What every scenario acts on: a warm service, its client, and waits with a deadline."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from .load import Checked, Load, Requests


class Service(Protocol):
    """What serves; its methods block, `start` until every variant is warm."""

    url: str
    key: str | None

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def ready(self) -> bool: ...


S = TypeVar("S", bound=Service)
# The event loop's clock, too.
now_s = time.monotonic


@dataclass
class Stage(Generic[S]):
    """A warm service, what is asked of it, and how much of that at most.

    `full_rate_per_s` is what `load(1)` asks for: the measured capacity where there is one.
    `soak_s` is how long a soak lasts.
    """

    service: S
    client: Checked
    requests: Requests
    full_rate_per_s: float
    quick: bool
    soak_s: float

    def load(self, share: float, seed: int = 0) -> Load:
        """The mix of requests, at a share of the full rate."""
        return Load(self.client, self.requests, share * self.full_rate_per_s, seed=seed)

    async def wait_until(self, condition: Callable[[], object], limit_s: float, what: str) -> float:
        """Poll, each time off the event loop; returns how long it took."""
        began_s = now_s()
        while not await asyncio.to_thread(condition):
            if now_s() > began_s + limit_s:
                raise TimeoutError(f"waited {limit_s:.0f} s for {what}")
            await asyncio.sleep(0.1)
        return now_s() - began_s

    async def within(self, condition: Callable[[], object], limit_s: float) -> bool:
        try:
            await self.wait_until(condition, limit_s, "it")
        except TimeoutError:
            return False
        return True
