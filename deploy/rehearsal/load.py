"""The open-loop generator in the background, for as long as the rehearsal runs."""

import asyncio
import threading
import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from loadtests import arrivals, openloop
from loadtests.client import connected
from loadtests.samples import Sample
from loadtests.workload import Workload

# Longer than any rehearsal; the schedule is made before, as an open loop's must be.
_SCHEDULED_S = 3 * 3600
# A client's patience is the service's own limit.
_TIMEOUT_S = 120
_SEED = 11


@dataclass(frozen=True)
class Asked:
    """A request that was sent: the sample, and the clock's time of its sending and its end."""

    sample: Sample
    sent_s: float
    done_s: float

    @property
    def lost(self) -> bool:
        """Whether its picture never came; a 429 is one that the service had no room for."""
        return self.sample.outcome != "ok"


class Load(threading.Thread):
    """Requests for all variants at one rate, evenly among them.

    Args:
        url: of the service.
        variants: whom to ask.
        rate_per_s: of all together.
        steps: each request takes one of these.
        key: an API key that all bring; None where none is needed.
    """

    def __init__(
        self,
        url: str,
        variants: Sequence[str],
        rate_per_s: float,
        steps: tuple[int, ...],
        key: str | None = None,
    ) -> None:
        super().__init__(name="load", daemon=True)
        self._url, self._variants = url, variants
        self.key = key
        self._workload = Workload.shipped("miniature", seed=_SEED, num_inference_steps=steps)
        self._schedules = [
            arrivals.poisson(rate_per_s / len(variants), _SCHEDULED_S, _SEED + number)
            for number in range(len(variants))
        ]
        self._asked: list[Asked] = []
        self._began_s = 0.0
        self._started = threading.Event()
        self._over = threading.Event()

    def run(self) -> None:
        """Send until `stop`."""
        asyncio.run(self._send())

    async def _send(self) -> None:
        # A gateway picks an endpoint per request, so there is a connection per request.
        async with connected(self._url, _TIMEOUT_S, self.key, keep_alive=False) as client:
            self._began_s = time.monotonic()
            self._started.set()
            runs = [
                openloop.run(
                    client,
                    schedule_s,
                    self._workload,
                    variant,
                    done=self._keep,
                    stop=self._over.is_set,
                )
                for variant, schedule_s in zip(self._variants, self._schedules, strict=True)
            ]
            await asyncio.gather(*runs)

    def _keep(self, sample: Sample) -> None:
        self._asked.append(
            Asked(sample, self._began_s + sample.fired_s, self._began_s + sample.done_s)
        )

    @property
    def lasted_s(self) -> float:
        """For how long it has been sending."""
        return time.monotonic() - self._began_s if self._started.is_set() else 0.0

    def stop(self) -> None:
        """Send no more; what is under way is answered or cut off."""
        self._over.set()

    def between(self, from_s: float, to_s: float) -> list[Asked]:
        """All requests that were scheduled in a span of the clock, once all have ended.

        Raises:
            TimeoutError: a request outlived its own limit.
        """
        self._started.wait()
        wanted = sum(
            bisect_left(one, to_s - self._began_s) - bisect_left(one, from_s - self._began_s)
            for one in self._schedules
        )
        end_s = time.monotonic() + _TIMEOUT_S + 10
        while True:
            found = [
                one
                for one in list(self._asked)
                if from_s <= self._began_s + one.sample.scheduled_s < to_s
            ]
            if len(found) >= wanted:
                return found
            if time.monotonic() > end_s:
                raise TimeoutError(f"{wanted - len(found)} requests neither ended nor timed out")
            time.sleep(0.2)

    def once(self) -> list[Asked]:
        """Ask each variant for one picture, beside the load."""
        return self._ask([(variant, 0) for variant in self._variants])

    def statuses_without_key(self) -> dict[str, int]:
        """What a client gets that brings no key, and one that brings another."""
        statuses = {}
        for who, key in (("no key", None), ("another key", "dsd-another")):
            reply = httpx.post(
                f"{self._url}/v1/images/generations",
                json=self._workload.body(0, self._variants[0]),
                headers={} if key is None else {"Authorization": f"Bearer {key}"},
                timeout=_TIMEOUT_S,
            )
            statuses[who] = reply.status_code
        return statuses

    def ask_again(self, lost: Sequence[Asked]) -> list[Asked]:
        """Send the very same requests once more, as a client would; the same seeds."""
        return self._ask([(one.sample.variant, one.sample.index) for one in lost])

    def _ask(self, requests: Sequence[tuple[str, int]]) -> list[Asked]:
        """One after the other, each by its variant and its number in the workload."""

        async def ask() -> list[Asked]:
            answers = []
            async with connected(self._url, _TIMEOUT_S, self.key, keep_alive=False) as client:
                for variant, number in requests:
                    began_s = time.monotonic()
                    (sample,) = await openloop.run(
                        client, [0.0], self._workload, variant, first=number
                    )
                    answers.append(Asked(sample, began_s + sample.fired_s, began_s + sample.done_s))
            return answers

        return asyncio.run(ask())
