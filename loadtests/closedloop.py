"""Closed loop: a number of users, each sending its next request when the last is answered."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable

from .client import Client, answered
from .samples import Sample
from .workload import Workload


async def at_once(
    ask: Callable[[int], Awaitable[object]], users: int, requests: Iterable[int]
) -> list[float]:
    """Ask for every request, by its number, at most `users` of them at once; seconds of each.

    Raises:
        ExceptionGroup: of what `ask` raised; the other requests are then left out.
    """
    latencies_s: list[float] = []
    waiting = iter(requests)

    async def use() -> None:
        for request in waiting:
            asked_at = time.perf_counter()
            await ask(request)
            latencies_s.append(time.perf_counter() - asked_at)

    async with asyncio.TaskGroup() as group:
        for _ in range(users):
            group.create_task(use())
    return latencies_s


async def run(
    client: Client,
    users: int,
    requests: int,
    workload: Workload,
    variant: str,
    *,
    first: int = 0,
    done: Callable[[Sample, bytes], object] = lambda sample, content: None,
) -> list[Sample]:
    """`requests` requests in all, at most `users` of them at once.

    Those are the workload's numbers from `first` on; `done` is called with each sample as it ends,
    and with the reply's bytes.
    """
    loop = asyncio.get_running_loop()
    samples: list[Sample] = []
    started = loop.time()

    async def ask(index: int) -> None:
        asked = workload.body(index, variant)
        fired_s = loop.time() - started
        answer = await client.draw(asked)
        steps, edit = asked.get("num_inference_steps"), "image" in asked
        fired = Sample(index, variant, steps, fired_s, fired_s, fired_s, edit=edit)
        sample = answered(fired, answer, answer.done_s - started)
        samples.append(sample)
        done(sample, answer.content)

    await at_once(ask, users, range(first, first + requests))
    return samples
