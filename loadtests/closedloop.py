"""A closed loop: so many users, each of whom asks again as soon as it has its picture."""

import asyncio
import itertools
from collections.abc import Callable

from .client import Client
from .samples import Sample, answered
from .workload import Workload


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

    Args:
        client: of the endpoint.
        users: how many are under way, as long as there are requests left.
        requests: how many in all; the workload's numbers from `first` on.
        workload: what is asked for.
        variant: which to ask.
        first: the first request's number.
        done: told each sample as it ends, with the reply's bytes.
    """
    loop = asyncio.get_running_loop()
    samples: list[Sample] = []
    indices = iter(range(first, first + requests))
    started = loop.time()

    async def use() -> None:
        for index in indices:
            asked = workload.body(index, variant)
            fired_s = loop.time() - started
            answer = await client.draw(asked)
            sample = answered(
                Sample(index, variant, asked["num_inference_steps"], fired_s, fired_s, fired_s),
                answer,
                answer.done_s - started,
            )
            samples.append(sample)
            done(sample, answer.content)

    async with asyncio.TaskGroup() as group:
        for _ in itertools.repeat(None, users):
            group.create_task(use())
    return samples
