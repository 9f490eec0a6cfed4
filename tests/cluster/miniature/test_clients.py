"""What HTTP clients of other languages send by default, against the service."""

import json
import socket
from urllib.parse import urlsplit

import httpx
import pytest

from tests.machine import HANG_S

BODY = json.dumps({"model": "distilled", "prompt": "a red star", "num_inference_steps": 2}).encode()


@pytest.mark.parametrize(
    "connection",
    [
        # curl --http2, and Java's HttpClient, over plain HTTP.
        pytest.param("Upgrade, HTTP2-Settings", id="curl-and-java"),
        pytest.param("upgrade", id="others"),
    ],
)
def test_an_upgrade_to_http2_that_is_offered_is_ignored(miniature: str, connection: str) -> None:
    parts = urlsplit(miniature)
    head = (
        f"POST /v1/images/generations HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Connection: {connection}\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(BODY)}\r\n\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), HANG_S) as client:
        client.sendall(head.encode())
        client.sendall(BODY)
        answer = client.makefile("rb").readline()
    assert answer.startswith(b"HTTP/1.1 200"), answer


def test_head_and_options_are_answered_through_serve(miniature: str) -> None:
    head = httpx.head(f"{miniature}/healthz", timeout=HANG_S)
    assert (head.status_code, head.content) == (200, b"")
    options = httpx.options(f"{miniature}/v1/images/generations", timeout=HANG_S)
    assert (options.status_code, options.headers["allow"]) == (204, "OPTIONS, POST")
