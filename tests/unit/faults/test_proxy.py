"""kube-proxy's part, over small servers on loopback addresses."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.faults.overlay.proxy import Proxy
from tests.machine import HANG_S


@asynccontextmanager
async def server(address: str, port: int) -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(f"{address}\n".encode())
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, address, port)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    """The answer's line; empty where the connection is refused."""
    try:
        writer.write(b"?\n")
        await writer.drain()
        return (await asyncio.wait_for(reader.readline(), HANG_S)).decode().strip()
    except ConnectionError:
        return ""


def test_a_connection_stays_with_its_endpoint_and_a_new_one_goes_where_it_is_ready() -> None:
    ready = ["127.0.0.2"]

    async def play() -> None:
        async with server("127.0.0.2", 0) as port, server("127.0.0.3", port):
            proxy = Proxy(lambda: ready, port, "127.0.0.5", port)
            proxy.start()
            assert await asyncio.to_thread(lambda: proxy.url) == f"http://127.0.0.5:{port}"
            old = await asyncio.open_connection("127.0.0.5", port)
            assert await ask(*old) == "127.0.0.2"
            assert proxy.open == {"127.0.0.2": 1}
            ready[:] = ["127.0.0.3"]
            new = await asyncio.open_connection("127.0.0.5", port)
            assert await ask(*new) == "127.0.0.3"
            assert await ask(*old) == "127.0.0.2"
            for endpoints in ([], ["127.0.0.4"]):  # None, and one that doesn't listen.
                ready[:] = endpoints
                refused = await asyncio.open_connection("127.0.0.5", port)
                assert await ask(*refused) == ""
                refused[1].close()
            for _, writer in (old, new):
                writer.close()

    asyncio.run(play())
