"""The open loop in the background, and every reply held to the picture that was drawn alone."""

import asyncio
import base64
import contextlib
import io
import json
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loadtests import arrivals, openloop
from loadtests.client import Answer, Client, connected
from loadtests.replies import Verdict
from loadtests.samples import Sample
from loadtests.workload import Workload

Body = dict[str, Any]
Picture = NDArray[np.uint8]
# Mean absolute difference per 8-bit channel: what the README promises of a picture in a batch.
TOLERANCE = 0.5
WRONG = "another picture than the one drawn alone"
# A client's patience is the service's own limit.
_TIMEOUT_S = 125
_SCHEDULED_S = 2 * 3600.0
_SEED = 23

# Sizes and guidance decide who can share a call; steps and schedulers who leaves when.
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

    def body(self, index: int, variant: str) -> Body:
        """One of the bodies, always the same for an index, whatever the `variant`."""
        return random.Random(f"{self.seed}/{index}").choice(self.bodies)


def mixed(variants: Sequence[str], kinds: Sequence[Body] = _KINDS) -> Requests:
    """Each variant with each kind of request, and a prompt and a seed of its own."""
    shipped = Workload.shipped("miniature", seed=_SEED)
    bodies = []
    for variant in variants:
        for kind in kinds:
            asked = shipped.body(len(bodies), variant)
            bodies.append({**asked, **kind})
    return Requests(prompts=(), seed=_SEED, bodies=tuple(bodies))


@dataclass(frozen=True)
class Differing:
    """A picture that is not the known one, its request, and when that was sent."""

    asked: Body
    picture: Picture
    fired_s: float


class Checked:
    """A client whose answers are held to what was drawn alone.

    `under_way` counts requests by model. While `may_differ` is set, a picture that differs goes
    into `differing` instead of being a failure: who compares it later knows more pictures.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._alone: dict[str, Picture] = {}
        self.under_way: Counter[str] = Counter()
        self.may_differ = False
        self.differing: list[Differing] = []

    async def get(self, path: str) -> Any:
        """As `Client.get`."""
        return await self._client.get(path)

    async def draw(self, asked: Body) -> Answer:
        """As `Client.draw`; a picture other than the known one makes the verdict "failed"."""
        self.under_way[asked["model"]] += 1
        fired_s = asyncio.get_running_loop().time()
        try:
            answer = await self._client.draw(asked)
        finally:
            self.under_way[asked["model"]] -= 1
        alone = self._alone.get(key(asked))
        if answer.verdict.outcome != "ok" or alone is None:
            return answer
        picture = await asyncio.to_thread(picture_of, answer.content)
        if difference(picture, alone) <= TOLERANCE:
            return answer
        if self.may_differ:
            self.differing.append(Differing(asked, picture, fired_s))
            return answer
        return replace(answer, verdict=Verdict("failed", WRONG))

    async def draw_alone(self, bodies: Sequence[Body]) -> None:
        """Draw one after the other while nobody else asks; from now on these are the right ones.

        Raises:
            RuntimeError: one of them could not be drawn.
        """
        self._alone.update(await self.drawn(bodies))

    async def drawn(self, bodies: Sequence[Body]) -> dict[str, Picture]:
        """Draw one after the other; the pictures by `key`.

        Raises:
            RuntimeError: one of them could not be drawn.
        """
        alone = {}
        for body in bodies:
            answer = await self._client.draw(body)
            if answer.verdict.outcome != "ok":
                raise RuntimeError(f"drawing alone: {answer.verdict.reason}")
            alone[key(body)] = picture_of(answer.content)
        return alone


def key(asked: Body) -> str:
    """What tells requests apart."""
    return json.dumps(asked, sort_keys=True)


def picture_of(content: bytes) -> Picture:
    """The first picture of a reply, `(H, W, 3)` uint8."""
    encoded = base64.b64decode(json.loads(content)["data"][0]["b64_json"])
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image.convert("RGB"))


def difference(one: Picture, other: Picture) -> float:
    """Mean absolute difference per channel; infinite where the sizes differ."""
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one.astype(int) - other).mean())


@contextlib.asynccontextmanager
async def checked(url: str) -> AsyncIterator[Checked]:
    """A checked client of the service at `url`."""
    async with connected(url, _TIMEOUT_S) as client:
        yield Checked(client)


class Load:
    """Poisson arrivals at a rate, from `async with` to its end, and until all have ended.

    `done`, where it is given, is told each sample. Moments are the event loop's.
    """

    def __init__(
        self,
        client: Checked,
        requests: Requests,
        rate_per_s: float,
        *,
        seed: int = _SEED,
        done: Callable[[Sample], object] = lambda sample: None,
    ) -> None:
        self._client, self._requests = client, requests
        self.rate_per_s = rate_per_s
        self._schedule_s = arrivals.poisson(rate_per_s, _SCHEDULED_S, seed)
        self._done = done
        self._over = False
        self.samples: list[Sample] = []
        self.began_s = 0.0

    async def __aenter__(self) -> "Load":
        self.began_s = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(
            openloop.run(
                self._client,  # type: ignore[arg-type]  # It draws; no more is asked of it.
                self._schedule_s,
                self._requests,
                "mixed",
                done=self._keep,
                stop=lambda: self._over,
            )
        )
        return self

    def stop(self) -> None:
        """Send no more."""
        self._over = True

    async def __aexit__(self, *fault: object) -> None:
        self.stop()
        if fault[0] is not None:
            self._task.cancel()
        await self._task

    def _keep(self, sample: Sample) -> None:
        self.samples.append(sample)
        self._done(sample)

    def sent_before(self, moment_s: float) -> range:
        """The numbers of the requests whose time had come."""
        return range(bisect_left(self._schedule_s, moment_s - self.began_s))

    def asked(self, sample: Sample) -> Body:
        """The body that a sample's request had."""
        return self._requests.body(sample.index, "")

    def fired_s(self, sample: Sample) -> float:
        """When it was sent."""
        return self.began_s + sample.fired_s

    def done_s(self, sample: Sample) -> float:
        """When its last byte came."""
        return self.began_s + sample.done_s
