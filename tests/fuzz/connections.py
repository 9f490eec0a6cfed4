"""A real HTTP server over a fake router, and bytes on connections to it."""

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import uvicorn

from serve.http.api import build_api
from serve.http.options import HttpOptions
from tests.fuzz.corpus import Raw
from tests.machine import HANG_S, wait_for
from tests.unit.http.test_api import FakeRouter


@dataclass(frozen=True)
class Answer:
    """All that came back until the server closed; no status where that was no HTTP, or nothing."""

    status: int | None
    head: str
    body: str


@contextmanager
def serving() -> Iterator[tuple[str, FakeRouter]]:
    """The address of the routes on a free port, and their router."""
    router = FakeRouter()
    app = build_api(router, HttpOptions())
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        (listening,) = server.servers
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", router
    finally:
        server.should_exit = True
        thread.join(HANG_S)
        assert not thread.is_alive()


def send(url: str, raw: Raw) -> Answer:
    """Send all of it, read the answer, end this side, and read whatever else comes.

    Where no answer is expected, this side ends as soon as all is sent.

    Raises:
        TimeoutError: the server neither answered nor hung up.
    """
    parts = urlsplit(url)
    received = b""
    with socket.create_connection((str(parts.hostname), parts.port or 80), HANG_S) as connection:
        # A server that has refused may not read the rest.
        sending = threading.Thread(target=_send_all, args=(connection, raw))
        sending.start()
        ended = False
        try:
            while part := connection.recv(65536):
                received += part
                if not ended and _is_whole(received):
                    ended = True
                    sending.join(HANG_S)
                    connection.shutdown(socket.SHUT_WR)
        except TimeoutError:
            raise TimeoutError(f"{raw.name}: neither an end nor more than {received!r}") from None
        except OSError:
            pass  # It has hung up.
        finally:
            sending.join(HANG_S)
        assert not sending.is_alive()
    head, _, body = received.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100 "):
        head, _, body = body.partition(b"\r\n\r\n")
    status = int(head.split()[1]) if head.startswith(b"HTTP/") else None
    return Answer(status, head.decode("latin-1"), body.decode("latin-1"))


def _send_all(connection: socket.socket, raw: Raw) -> None:
    with contextlib.suppress(OSError):  # It has hung up.
        connection.sendall(raw.sent)
        if not raw.statuses:
            connection.shutdown(socket.SHUT_WR)


def _is_whole(received: bytes) -> bool:
    """Whether as much has come as the last head has told."""
    head, end, body = received.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100 "):
        return _is_whole(body)
    if re.search(rb"\r\ntransfer-encoding: chunked", head, re.IGNORECASE):
        return body.endswith(b"0\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
    return bool(end) and length is not None and len(body) >= int(length[1])
