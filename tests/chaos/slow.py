"""Five hundred clients that send or read next to nothing, beside healthy ones."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from loadtests.samples import Sample, percentile

from .load import Load
from .outcome import Check, Found, none_lost
from .stage import Stage

_CLIENTS = 500
_WORSE = 1.1
_RATE_PER_S = 5.0
# A page that doesn't fit in the buffers between server and reader.
_LARGE = "/steps/static-offline-docs/swagger-ui-bundle.js"
_BUFFER_BYTES = 4096
_SEND_EVERY_S = 5.0
# Who was refused for it comes again, but not at once: that would be a flood, too.
_COME_AGAIN_S = 10.0
# Nor do they come all at once.
_CONNECT_PER_S = 40.0
_SETTLE_S = 5.0


async def slow_clients(stage: Stage) -> Found:
    """Without them, with them, without them, with them."""
    span_s = 15.0 if stage.quick else 30.0
    without: list[Sample] = []
    beside: list[Sample] = []
    statuses: list[str] = []
    for turn in range(2):
        without += await _healthy(stage, span_s, seed=20 + turn)
        async with _slow(stage) as told:
            beside += await _healthy(stage, span_s, seed=20 + turn)
        statuses += told
    alone_s, p95_s = _p95_s(without), _p95_s(beside)
    refused = sum(one == "408" for one in statuses)
    return Found(
        f"{_CLIENTS // 4} clients that send a byte of a request's head every {_SEND_EVERY_S:g} s, "
        f"{_CLIENTS // 4} of its body, and {_CLIENTS // 2} that asked for a large file and don't "
        "read it; in turn with none, twice; healthy ones over the sleeping device",
        [
            none_lost([*without, *beside]),
            Check(f"p95 of healthy ones {p95_s:.3f} s (without the slow ones {alone_s:.3f} s)",
                  f"{alone_s * _WORSE:.3f} s: a tenth more", p95_s <= _WORSE * alone_s, timed=True),
            Check(f"{refused} slow senders refused with 408", "at least one", refused > 0),
        ],
        [*without, *beside],
    )  # fmt: skip


def _p95_s(samples: list[Sample]) -> float:
    return percentile(sorted(one.latency_s for one in samples), 95) or float("inf")


async def _healthy(stage: Stage, span_s: float, seed: int) -> list[Sample]:
    # The same arrivals with the slow ones as without.
    async with Load(stage.steps_client, stage.steps_requests, _RATE_PER_S, seed=seed) as load:
        await asyncio.sleep(span_s)
    return load.samples


@contextlib.asynccontextmanager
async def _slow(stage: Stage) -> AsyncIterator[list[str]]:
    """The slow ones, once they are connected; yields the statuses that they were answered."""
    told: list[str] = []
    gone = asyncio.Event()
    tasks = [
        asyncio.create_task(
            _KINDS[number % len(_KINDS)](stage, gone, told, number / _CONNECT_PER_S)
        )
        for number in range(_CLIENTS)
    ]
    await asyncio.sleep(_CLIENTS / _CONNECT_PER_S + _SETTLE_S)
    try:
        yield told
    finally:
        gone.set()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _send_head(stage: Stage, gone: asyncio.Event, told: list[str], after_s: float) -> None:
    """Begin a request, and drip its head."""
    await asyncio.sleep(after_s)
    _, writer = await _connect(stage)
    writer.write(b"POST /steps/v1/images/generations HTTP/1.1\r\nX-Slow: ")
    with contextlib.suppress(OSError):
        while not gone.is_set():
            writer.write(b"x")
            await _gone_within(gone, _SEND_EVERY_S)
    writer.close()


async def _send_body(stage: Stage, gone: asyncio.Event, told: list[str], after_s: float) -> None:
    """Begin requests, and drip their bodies, until refused; a while later again."""
    await asyncio.sleep(after_s)
    while not gone.is_set():
        reader, writer = await _connect(stage)
        head = "POST /steps/v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        writer.write(
            f"{head}Content-Type: application/json\r\nContent-Length: 900\r\n\r\n".encode()
        )
        answer = asyncio.create_task(reader.readline())
        with contextlib.suppress(OSError):
            while not (gone.is_set() or answer.done()):
                writer.write(b" ")
                await asyncio.wait({answer}, timeout=_SEND_EVERY_S)
        if answer.done() and answer.exception() is None and answer.result():
            told.append(answer.result().split()[1].decode())
        answer.cancel()
        writer.close()
        await _gone_within(gone, _COME_AGAIN_S)


async def _read(stage: Stage, gone: asyncio.Event, told: list[str], after_s: float) -> None:
    """Ask for much, and leave it in the buffers."""
    await asyncio.sleep(after_s)
    _, writer = await _connect(stage)
    writer.write(f"GET {_LARGE} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await gone.wait()
    writer.transport.abort()


async def _gone_within(gone: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(gone.wait(), seconds)


async def _connect(stage: Stage) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(stage.service.url)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (parts.hostname, parts.port))
    return await asyncio.open_connection(sock=connection, limit=_BUFFER_BYTES)


# Half of them read.
_KINDS = (_read, _send_head, _read, _send_body)
