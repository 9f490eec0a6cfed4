"""HTTP client of an endpoint: request pictures and judge the replies, read what is served."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from .bodies import content_of, path_of
from .replies import Verdict, judge
from .samples import Sample


@dataclass(frozen=True)
class Answer:
    """A reply and its verdict; `done_s` is the event loop's time of its last byte."""

    status: int
    content: bytes
    done_s: float
    verdict: Verdict


def answered(sample: Sample, answer: Answer, done_s: float) -> Sample:
    """The sample with what came back, `done_s` after the run's start."""
    verdict, timings = answer.verdict, answer.verdict.timings or {}
    device_s = timings.get("denoise_s", 0.0) + timings.get("decode_s", 0.0)
    return replace(
        sample,
        done_s=done_s,
        status=answer.status,
        outcome=verdict.outcome,
        reason=verdict.reason,
        retry_after_s=verdict.retry_after_s,
        queue_s=timings.get("queue_s"),
        device_s=device_s or None,
        model=verdict.model,
        model_reason=verdict.model_reason,
    )


class Client:
    """Made by `connected`."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def draw(self, asked: dict[str, Any]) -> Answer:
        """Send one request's body; a connection that fails is a verdict, too."""
        loop = asyncio.get_running_loop()
        try:
            content, content_type = content_of(asked)
            async with self._session.post(
                self._url + path_of(asked), data=content, headers={"Content-Type": content_type}
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as fault:
            reason = f"{type(fault).__name__}: {fault}"
            return Answer(0, b"", loop.time(), Verdict("failed", reason))
        done_s = loop.time()
        # On a thread: decoding pictures here would delay the next arrivals.
        verdict = await asyncio.to_thread(judge, response.status, response.headers, content, asked)
        return Answer(response.status, content, done_s, verdict)

    async def get(self, path: str) -> Any:
        """The JSON of `GET path`, whatever its status.

        Raises:
            aiohttp.ClientError: no answer, or one that is not JSON.
            TimeoutError: no answer in time.
        """
        async with self._session.get(self._url + path) as response:
            return await response.json()


@contextlib.asynccontextmanager
async def connected(
    url: str, timeout_s: float = 120, key: str | None = None, *, keep_alive: bool = True
) -> AsyncIterator[Client]:
    """A client of the service at `url` (without a path), with as many connections as it takes.

    A request that takes longer than `timeout_s` counts as failed; `key` is sent as a bearer token.
    Without `keep_alive` each request has a connection of its own, as behind a gateway that picks
    an endpoint per request.
    """
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, force_close=not keep_alive),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        headers={} if key is None else {"Authorization": f"Bearer {key}"},
    ) as session:
        yield Client(session, url.rstrip("/"))
