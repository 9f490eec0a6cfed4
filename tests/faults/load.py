"""The open loop in the background, and a client that compares pictures with those drawn alone."""

import asyncio
import contextlib
import json
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadtests import arrivals, openloop
from loadtests.client import Answer, Client, connected
from loadtests.compare.quality import pixels
from loadtests.replies import Verdict, first_picture
from loadtests.samples import Sample
from loadtests.workload import Workload

Body = dict[str, Any]
Picture = NDArray[np.uint8]
# Mean absolute difference per 8-bit channel: what the README promises of a picture in a batch.
TOLERANCE = 0.5
WRONG = "another picture than the one drawn alone"
# A client waits as long as the service's own limit.
_TIMEOUT_S = 125
# Longer than any scenario; the schedule is made beforehand, as an open loop's must be.
_SCHEDULED_S = 2 * 3600.0
_SEED = 23

# Sizes and guidance decide what can share a call; steps and schedulers what leaves it when.
_KINDS: tuple[Body, ...] = (
    {"num_inference_steps": 8, "size": "96x96"},
    {"num_inference_steps": 12, "size": "96x96", "scheduler": "euler"},
    {"num_inference_steps": 4, "size": "96x96", "guidance_scale": 1.0},
    {"num_inference_steps": 6, "size": "64x64", "scheduler": "ddim"},
    {"num_inference_steps": 4, "size": "128x96", "scheduler": "dpm++"},
)


@dataclass(frozen=True)
class Requests(Workload):
    """Requests taken at random from a few, so that each can be drawn alone beforehand."""

    bodies: tuple[Body, ...] = ()

    def body(self, index: int, variant: str = "") -> Body:
        """One of the bodies, always the same for an index, whatever the `variant`."""
        return random.Random(f"{self.seed}/{index}").choice(self.bodies)


def mixed(variants: Sequence[str], kinds: Sequence[Body] = _KINDS) -> Requests:
    """Each variant with each kind of request, and a prompt and a seed of its own."""
    shipped = Workload.shipped("miniature", seed=_SEED)
    pairs = [(variant, kind) for variant in variants for kind in kinds]
    bodies = [{**shipped.body(i, variant), **kind} for i, (variant, kind) in enumerate(pairs)]
    return Requests(prompts=(), seed=_SEED, bodies=tuple(bodies))


@dataclass(frozen=True)
class Differing:
    """A picture that is not the known one, its request, and when that was sent."""

    asked: Body
    picture: Picture
    fired_s: float


class Checked(Client):
    """A client that compares each picture with the one drawn alone.

    `under_way` counts requests by model. While `may_differ` is set, a picture that differs goes
    into `differing` instead of being a failure, to be compared with others later.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self.alone: dict[str, Picture] = {}
        self.under_way: Counter[str] = Counter()
        self.may_differ = False
        self.differing: list[Differing] = []

    async def get(self, path: str) -> Any:
        return await self._client.get(path)

    async def draw(self, asked: Body) -> Answer:
        """As `Client.draw`; a picture other than the known one makes the verdict "failed"."""
        self.under_way[asked["model"]] += 1
        fired_s = asyncio.get_running_loop().time()
        try:
            answer = await self._client.draw(asked)
        finally:
            self.under_way[asked["model"]] -= 1
        alone = self.alone.get(key_of(asked))
        if answer.verdict.outcome != "ok" or alone is None:
            return answer
        picture = await asyncio.to_thread(picture_of, answer.content)
        if difference(picture, alone) <= TOLERANCE:
            return answer
        if self.may_differ:
            self.differing.append(Differing(asked, picture, fired_s))
            return answer
        return replace(answer, verdict=Verdict("failed", WRONG))

    async def drawn(self, bodies: Sequence[Body]) -> dict[str, Picture]:
        """Draw one after the other, while nothing else does; the pictures by `key_of`."""
        pictures = {}
        for body in bodies:
            answer = await self._client.draw(body)
            if answer.verdict.outcome != "ok":
                raise RuntimeError(f"drawing alone: {answer.verdict.reason}")
            pictures[key_of(body)] = picture_of(answer.content)
        return pictures


def key_of(asked: Body) -> str:
    return json.dumps(asked, sort_keys=True)


def picture_of(content: bytes) -> Picture:
    """The first picture of a reply, `(H, W, 3)` uint8."""
    return pixels(first_picture(content))


def difference(first: Picture, second: Picture) -> float:
    """Mean absolute difference per channel; infinite where the sizes differ."""
    if first.shape != second.shape:
        return float("inf")
    return float(np.abs(first.astype(int) - second).mean())


@contextlib.asynccontextmanager
async def checked(
    url: str, requests: Requests, key: str | None = None, *, keep_alive: bool = True
) -> AsyncIterator[Checked]:
    """A client of the service at `url` that has drawn each of the requests alone."""
    async with connected(url, _TIMEOUT_S, key, keep_alive=keep_alive) as client:
        found = Checked(client)
        found.alone = await found.drawn(requests.bodies)
        yield found


class Load:
    """Poisson arrivals at a rate, from `async with` to its end, and until all have ended."""

    def __init__(
        self, client: Checked, requests: Requests, rate_per_s: float, seed: int = _SEED
    ) -> None:
        self._client, self._requests = client, requests
        self.rate_per_s = rate_per_s
        self._schedule_s = arrivals.poisson(rate_per_s, _SCHEDULED_S, seed)
        self._stopped = False
        self.samples: list[Sample] = []
        self.began_s = 0.0

    async def __aenter__(self) -> "Load":
        self.began_s = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(
            openloop.run(
                self._client,
                self._schedule_s,
                self._requests,
                "mixed",
                done=self.samples.append,
                stop=lambda: self._stopped,
            )
        )
        return self

    async def __aexit__(self, *fault: object) -> None:
        self.stop()
        if fault[0] is not None:
            self._task.cancel()
        await self._task

    def stop(self) -> None:
        self._stopped = True

    def unfinished_before(self, moment_s: float) -> bool:
        """Whether a request that was due before this moment hasn't ended."""
        ended = {sample.index for sample in self.samples}
        return not ended.issuperset(range(bisect_left(self._schedule_s, moment_s - self.began_s)))

    def asked(self, sample: Sample) -> Body:
        return self._requests.body(sample.index)

    def fired_s(self, sample: Sample) -> float:
        """When it was sent, by the event loop's clock."""
        return self.began_s + sample.fired_s

    def done_s(self, sample: Sample) -> float:
        """When its last byte came, by the event loop's clock."""
        return self.began_s + sample.done_s

    def count(self, matches: Callable[[Sample], bool]) -> int:
        return sum(map(matches, self.samples))
