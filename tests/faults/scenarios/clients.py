"""Clients that misbehave: some leave in the middle, some send or read next to nothing."""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aiohttp

from loadtests.samples import Sample

from ..load import Body, Load
from ..local import VARIANTS, LocalStage, scrape, sleeping_device
from ..outcome import Check, Found, none_lost, p95_s, within
from ..stage import now_s

_SHARE = 0.2
# So many at once, and so long after one another, that all are admitted.
_A_WAVE = 12
_STEPS = 60
_LEAVE_AFTER_S = 0.3, 0.8
# Ray exports metrics every few seconds.
_EXPORTED_S = 30.0
# What leaves on its way from router to replica is never counted there.
_COUNTED = 0.8


async def clients_leave(stage: LocalStage) -> Found:
    """Waves of clients ask for 60 steps and leave, half of them after a stream's first preview."""
    clients = 48 if stage.quick else 200
    before = await asyncio.to_thread(_cancelled)
    alone_s = max([await _draw_s(stage, variant, 2) for variant in VARIANTS])
    long_s = min([await _draw_s(stage, variant, _STEPS) for variant in VARIANTS])
    freed_s, admitted = [], 0
    async with stage.load(_SHARE, seed=6) as neighbours, aiohttp.ClientSession() as session:
        for began in range(0, clients, _A_WAVE):
            wave = range(began, min(began + _A_WAVE, clients))
            admitted += sum(await asyncio.gather(*(_leave(session, stage, i) for i in wave)))
            freed_s.append(await _draw_s(stage, VARIANTS[began // _A_WAVE % len(VARIANTS)], 2))
    idle = await stage.within(_idle, _EXPORTED_S)
    await stage.within(lambda: _cancelled() - before >= _COUNTED * admitted, _EXPORTED_S)
    counted = await asyncio.to_thread(_cancelled) - before
    enough = counted >= _COUNTED * admitted
    after = f"two steps right after a wave (alone {alone_s:.2f} s)"
    why = "half of the shortest abandoned picture more"
    return Found(
        [
            none_lost(neighbours.samples),
            Check(f"{counted:.0f} of {admitted} cancelled", f"{_COUNTED:.0%}", enough, timed=True),
            Check(f"{'no' if idle else 'a'} slot used or wanted afterwards", "none", idle),
            within(after, max(freed_s), alone_s + long_s / 2, why),
        ],
        neighbours.samples,
    )


def _cancelled() -> float:
    return scrape("ray_dsd_requests_total", outcome="cancelled")


def _idle() -> bool:
    return not scrape("ray_dsd_slots_used") + scrape("ray_dsd_images_waiting")


async def _draw_s(stage: LocalStage, variant: str, steps: int) -> float:
    began_s = now_s()
    await stage.client.draw(_body(variant, steps))
    return now_s() - began_s


def _body(variant: str, steps: int) -> Body:
    return {"model": variant, "prompt": "a red star", "seed": 5, "num_inference_steps": steps}


async def _leave(session: aiohttp.ClientSession, stage: LocalStage, number: int) -> bool:
    """Ask, and close the connection on the way; whether the request had been admitted."""
    asked = _body(VARIANTS[number // 2 % len(VARIANTS)], _STEPS)
    streams = bool(number % 2)
    if streams:
        asked |= {"stream": True, "partial_images": 3}
    patience_s = None if streams else random.Random(number).uniform(*_LEAVE_AFTER_S)
    url = f"{stage.service.url}/v1/images/generations"
    try:
        async with asyncio.timeout(patience_s), session.post(url, json=asked) as response:
            if streams:
                async for line in response.content:
                    if line.startswith(b"data:"):
                        break
                response.close()
            return response.status == 200
    except TimeoutError:
        return True


_SLOW_CLIENTS = 500
_WORSE = 1.1
_RATE_PER_S = 5.0
_BUFFER_BYTES = 4096
_SEND_EVERY_S = 5.0
# A client that was refused comes again, but not at once: that would be a flood, too.
_COME_AGAIN_S = 10.0
# Nor do they come all at once.
_CONNECT_PER_S = 40.0
_SETTLE_S = 5.0
_ROUTE = b"POST /steps/v1/images/generations HTTP/1.1\r\n"
_JSON = b"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n"
# A file that doesn't fit in the buffers between server and reader.
_LARGE = b"GET /steps/static-offline-docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
# What they begin with, and send from then on: half of them read slowly, the others send a request's
# head or its body slowly.
_KINDS = (_LARGE, b""), (_ROUTE + b"X-Slow: ", b"x"), (_LARGE, b""), (_ROUTE + _JSON, b" ")


async def slow_clients(stage: LocalStage) -> Found:
    """Healthy clients alone, and beside 250 that read nothing and 250 that send slowly; twice."""
    span_s = 15.0 if stage.quick else 30.0
    alone: list[Sample] = []
    beside: list[Sample] = []
    statuses: list[bytes] = []
    async with sleeping_device(stage) as (client, requests):
        for turn in range(2):
            # The same arrivals with the slow ones as without.
            async with Load(client, requests, _RATE_PER_S, seed=20 + turn) as load:
                await asyncio.sleep(span_s)
            alone += load.samples
            async with _slow(stage.service.url, statuses):
                async with Load(client, requests, _RATE_PER_S, seed=20 + turn) as load:
                    await asyncio.sleep(span_s)
                beside += load.samples
    alone_s, beside_s = p95_s(alone), p95_s(beside)
    refused = statuses.count(b"408")
    return Found(
        [
            none_lost([*alone, *beside]),
            within(f"p95 (alone {alone_s:.3f} s)", beside_s, alone_s * _WORSE, "a tenth more"),
            Check(f"{refused} slow senders refused with 408", "at least one", refused > 0),
        ],
        [*alone, *beside],
    )


@contextlib.asynccontextmanager
async def _slow(url: str, statuses: list[bytes]) -> AsyncIterator[None]:
    """The slow ones, once they are connected; adds the statuses that they were answered."""
    tasks = [asyncio.create_task(_drip(url, number, statuses)) for number in range(_SLOW_CLIENTS)]
    await asyncio.sleep(_SLOW_CLIENTS / _CONNECT_PER_S + _SETTLE_S)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drip(url: str, number: int, statuses: list[bytes]) -> None:
    """One client, that begins again a while after it was refused."""
    await asyncio.sleep(number / _CONNECT_PER_S)
    begin, more = _KINDS[number % len(_KINDS)]
    address = urlsplit(url).hostname, urlsplit(url).port
    while True:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, address)
        reader, writer = await asyncio.open_connection(sock=connection, limit=_BUFFER_BYTES)
        try:
            writer.write(begin)
            while more:
                writer.write(more)
                with contextlib.suppress(TimeoutError):
                    answer = await asyncio.wait_for(reader.readline(), _SEND_EVERY_S)
                    statuses += answer.split()[1:2]
                    break
            else:
                await asyncio.sleep(3600)  # Read nothing, until cancelled.
        except OSError:
            pass
        finally:
            writer.transport.abort()
        await asyncio.sleep(_COME_AGAIN_S)
