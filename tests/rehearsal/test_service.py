"""kube-proxy's part, over small servers on loopback addresses."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from deploy.rehearsal.service import Service


@asynccontextmanager
async def server(address: str, port: int) -> AsyncIterator[int]:
    """Answers every line with its own address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            writer.write(f"{address}\n".encode())
            await writer.drain()
        writer.close()

    listening = await asyncio.start_server(answer, address, port)
    async with listening:
        yield listening.sockets[0].getsockname()[1]


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
    writer.write(b"?\n")
    await writer.drain()
    return (await asyncio.wait_for(reader.readline(), 10)).decode().strip()


def test_a_service_may_have_an_address_and_a_port_of_its_own() -> None:
    async def story() -> None:
        async with server("127.0.0.2", 0) as port:
            service = Service(lambda: ["127.0.0.2"], port, "127.0.0.5", port)
            service.start()
            assert service.url == f"http://127.0.0.5:{port}"
            reader, writer = await asyncio.open_connection("127.0.0.5", port)
            assert await ask(reader, writer) == "127.0.0.2"
            writer.close()

    asyncio.run(story())


def test_a_connection_stays_with_its_endpoint_and_a_new_one_goes_where_it_is_ready() -> None:
    ready = ["127.0.0.2"]

    async def story() -> None:
        async with server("127.0.0.2", 0) as port, server("127.0.0.3", port):
            service = Service(lambda: ready, port)
            service.start()
            target = int(service.url.rpartition(":")[2])
            old = await asyncio.open_connection("127.0.0.1", target)
            assert await ask(*old) == "127.0.0.2"
            assert service.open == {"127.0.0.2": 1}
            ready[:] = ["127.0.0.3"]
            new = await asyncio.open_connection("127.0.0.1", target)
            assert await ask(*new) == "127.0.0.3"
            assert await ask(*old) == "127.0.0.2"
            for _, writer in (old, new):
                writer.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    "endpoints", [pytest.param([], id="none"), pytest.param(["127.0.0.4"], id="dead")]
)
def test_a_connection_is_refused_where_nobody_answers(endpoints: list[str]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.4", 0))
        port = closed.getsockname()[1]

    async def story() -> bytes:
        service = Service(lambda: endpoints, port)
        service.start()
        target = int(service.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", target)
        try:
            return await asyncio.wait_for(reader.read(), 10)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()

    assert asyncio.run(story()) == b""
