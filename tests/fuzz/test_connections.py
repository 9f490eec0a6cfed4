"""What an HTTP client would not send, to the routes behind uvicorn, as Serve runs it."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.fuzz.connections import Answer, send, serving
from tests.fuzz.corpus import RAW, Raw
from tests.machine import HANG_S
from tests.unit.http.test_api import FakeRouter

Service = tuple[str, FakeRouter]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as found:
        yield found


def hold_raw(answer: Answer, raw: Raw) -> None:
    """An answer to bytes of the corpus: a refusal, of ours or of the server's, or a hang-up."""
    assert answer.status in raw.statuses or (
        not raw.statuses and (answer.status is None or 400 <= answer.status < 500)
    ), answer
    for secret in ("Traceback", 'File "', ".py", "\r\nSet-Cookie"):
        assert secret.lower() not in (answer.head + answer.body).lower()
    assert "evil.example" not in answer.head
    # Nothing of a body was taken for another request and answered.
    assert "HTTP/1.1 2" not in answer.body
    if "application/json" in answer.head:
        assert set(json.loads(answer.body.partition("HTTP/1.1 ")[0])) == {"error"}


@pytest.mark.parametrize("raw", RAW, ids=lambda one: one.name)
def test_it_is_refused_and_the_next_request_is_answered(raw: Raw, service: Service) -> None:
    url, router = service
    router.asked.clear()
    hold_raw(send(url, raw), raw)
    assert router.asked == []
    reply = httpx.get(f"{url}/healthz", timeout=HANG_S)
    assert (reply.status_code, reply.json()) == (200, {"status": "ok"})
