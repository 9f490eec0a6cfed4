"""What every scenario acts on."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .load import Checked, Load, Requests
from .machine import BusyWatch
from .outcome import NotMet
from .service import Service


@dataclass
class Stage:
    """A warm service, what is asked of it, and how much it can draw.

    `capacity_per_s` is of the mix, measured; `isolated` tells whether the run has namespaces of its
    own.
    """

    service: Service
    client: Checked
    steps_client: Checked
    requests: Requests
    steps_requests: Requests
    capacity_per_s: float
    watch: BusyWatch
    scratch: Path
    quick: bool
    soak_s: float
    isolated: bool
    tell: Callable[[str], None]

    def load(self, share: float, seed: int = 0) -> Load:
        """The mix over the miniature, at a share of the capacity."""
        return Load(self.client, self.requests, share * self.capacity_per_s, seed=seed)

    async def wait_until(self, condition: Callable[[], bool], limit_s: float, what: str) -> float:
        """Poll, each time off the event loop; returns how long it took.

        Raises:
            NotMet: it didn't come true in time.
        """
        began_s = now_s()
        while not await asyncio.to_thread(condition):
            if now_s() > began_s + limit_s:
                raise NotMet(f"waited {limit_s:.0f} s for {what}")
            await asyncio.sleep(0.1)
        return now_s() - began_s

    async def within(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Poll; whether it came true in time."""
        try:
            await self.wait_until(condition, limit_s, "it")
        except NotMet:
            return False
        return True

    async def recover(self, limit_s: float = 120) -> float:
        """Wait until every variant is warm; returns how long it took.

        Raises:
            NotMet: not in time.
        """
        return await self.wait_until(self.service.ready, limit_s, "a warm service")


def now_s() -> float:
    """The event loop's clock, which is the monotonic one."""
    return time.monotonic()
