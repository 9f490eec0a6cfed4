"""kube-proxy: one address before a service's ready endpoints, chosen per connection."""

import asyncio
import contextlib
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from .kubelet import SERVE_PORT


class Proxy(threading.Thread):
    """Of `<rayservice>-serve-svc`, or of a head's own service where that has an address.

    Connections that exist stay with their endpoint when it is no longer ready, as they do behind
    a real service; a new one is refused where nothing is ready. `endpoints` is called for each
    connection; `port` is theirs. `address` is one in the pods' network, where all but 127.0.0.1
    are reached.
    """

    def __init__(
        self,
        endpoints: Callable[[], Sequence[str]],
        port: int = SERVE_PORT,
        address: str = "127.0.0.1",
        listen_port: int = 0,
    ) -> None:
        super().__init__(name="proxy", daemon=True)
        self._endpoints, self._target_port = endpoints, port
        self._address, self._port = address, listen_port
        self._listening = threading.Event()
        # Connections under way, by endpoint.
        self.open: Counter[str] = Counter()

    @property
    def url(self) -> str:
        self._listening.wait()
        return f"http://{self._address}:{self._port}"

    def run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, self._address, self._port)
        self._port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            endpoint = random.choice(self._endpoints())
            upstream = await asyncio.open_connection(endpoint, self._target_port)
        except (IndexError, OSError):  # There is none, or it doesn't answer.
            writer.transport.abort()
            return
        self.open[endpoint] += 1
        try:
            await asyncio.gather(_copy(reader, upstream[1]), _copy(upstream[0], writer))
        finally:
            self.open[endpoint] -= 1


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    """Hand on until either side ends; then end the other."""
    with contextlib.suppress(OSError):
        while chunk := await source.read(2**16):
            sink.write(chunk)
            await sink.drain()
    with contextlib.suppress(OSError):
        sink.close()
        await sink.wait_closed()
