"""The gate before the routes, over a fake router: no Ray, no server."""

import asyncio
import hashlib
import io
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image

from serve.catalogue import MINIATURE
from serve.config import AppArgs
from serve.errors import InvalidApiKey, RequestTimeout
from serve.generation import Drawing, Generation, PartialPicture, PictureEvent, PictureFormat
from serve.http.api import build_api
from serve.http.gate import MAX_HEADER_BYTES, MAX_HEADERS, Gate
from serve.http.options import HttpOptions
from serve.keys import KeyFile, new_key
from tests.asgi import call, client_of, with_scope
from tests.machine import until
from tests.unit.http.test_api import JSON, URL, FakeRouter, assert_openai_error

ALICE, ALICES_LINE = new_key("alice")
BATCH, BATCHS_LINE = new_key("batch", "distilled")
BODY = {"prompt": "x"}


class SlowRouter(FakeRouter):
    """Draws once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.may_draw = asyncio.Event()
        self.drawing = 0

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        self.drawing += 1
        try:
            await self.may_draw.wait()
            return await super().draw(generation, picture_format)
        finally:
            self.drawing -= 1

    async def stream(
        self, generation: Generation, picture_format: PictureFormat
    ) -> AsyncIterator[PictureEvent]:
        yield PartialPicture(0, 0, b"")
        await self.draw(generation, picture_format)


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    path = tmp_path / "keys"
    path.write_text(f"{ALICES_LINE}\n{BATCHS_LINE}\n")
    return KeyFile(path, MINIATURE.variants)


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter()


@pytest.fixture
def guarded(router: FakeRouter, keys: KeyFile) -> FastAPI:
    return build_api(router, HttpOptions(), keys)


@pytest.fixture
def unguarded(router: FakeRouter) -> FastAPI:
    return build_api(router, HttpOptions())


# Keys ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param(None, id="none"),
        pytest.param("", id="empty"),
        pytest.param("Bearer", id="no-key"),
        pytest.param("Bearer dsd-unknown", id="unknown"),
        pytest.param(f"Basic {ALICE}", id="another-scheme"),
        pytest.param(ALICE, id="no-scheme"),
        pytest.param(f"Bearer {ALICE}x", id="longer"),
        pytest.param(f"Bearer {ALICE[:-1]}", id="shorter"),
        pytest.param(f"Bearer {ALICES_LINE.split()[1]}", id="the-hash"),
        pytest.param(f"Bearer {ALICE}, Bearer {BATCH}", id="two-keys"),
    ],
)
@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("POST", URL),
        ("GET", "/v1/models"),
        ("GET", "/v1/nothing"),
        ("PUT", URL),
        ("GET", "/nothing"),
    ],
)
def test_without_a_known_key_there_is_401(
    guarded: FastAPI, router: FakeRouter, authorization: str | None, method: str, url: str
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    response = call(guarded, method, url, json=BODY, headers=headers)
    error = assert_openai_error(response, 401, "invalid_api_key")
    assert error["type"] == "invalid_request_error"
    assert response.headers["www-authenticate"] == "Bearer"
    assert router.asked == []


def test_two_authorization_headers_are_none(guarded: FastAPI) -> None:
    headers = [("Authorization", "Bearer x"), ("Authorization", f"Bearer {ALICE}")]
    assert_openai_error(call(guarded, "GET", "/v1/models", headers=headers), 401, "invalid_api_key")


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER   "])
def test_a_known_key_is_let_in(guarded: FastAPI, scheme: str) -> None:
    headers = {"Authorization": scheme + ALICE}
    assert call(guarded, "POST", URL, json=BODY, headers=headers).status_code == 200
    assert call(guarded, "GET", "/v1/models", headers=headers).status_code == 200
    assert_openai_error(call(guarded, "GET", "/v1/nothing", ALICE), 404, "route_not_found")


@pytest.mark.parametrize(
    "path",
    ["/", "/playground/page.js", "/healthz", "/readyz", "/docs", "/openapi.json"],
)
@pytest.mark.parametrize("mounted_at", ["", "/sd"])
def test_health_docs_and_the_page_stay_open(guarded: FastAPI, path: str, mounted_at: str) -> None:
    mounted = with_scope(guarded, {"root_path": mounted_at})
    assert call(mounted, "GET", mounted_at + path).status_code == 200
    refused = call(mounted, "GET", f"{mounted_at}/v1/models")
    assert_openai_error(refused, 401, "invalid_api_key")
    assert call(mounted, "GET", f"{mounted_at}/v1/models", ALICE).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/healthz/../v1/models", "/docs/../v1/models", "//v1/models", "/V1/models", "/v1/models/"],
)
def test_no_other_spelling_of_a_path_goes_round_the_gate(guarded: FastAPI, path: str) -> None:
    spelt = with_scope(guarded, {"path": path, "raw_path": path.encode()})
    response = call(spelt, "GET", "/")
    assert response.status_code in (401, 404)
    assert "data" not in response.json()


def test_a_key_is_held_to_its_variants(guarded: FastAPI, router: FakeRouter) -> None:
    response = call(guarded, "POST", URL, BATCH, json={**BODY, "model": "original"})
    error = assert_openai_error(response, 403, "model_not_allowed")
    assert (error["param"], error["message"]) == (
        "model",
        'model: "original" would draw; key "batch" allows: distilled',
    )
    assert router.chosen == router.asked == []
    for key, model in ((BATCH, "distilled"), (ALICE, "original"), (ALICE, "distilled")):
        reply = call(guarded, "POST", URL, key, json={**BODY, "model": model})
        assert reply.status_code == 200
    missing = call(guarded, "POST", URL, BATCH, json={**BODY, "model": "nope"})
    assert_openai_error(missing, 404, "model_not_found")
    any_of_them = call(guarded, "POST", URL, BATCH, json={**BODY, "model": "auto"})
    assert_openai_error(any_of_them, 403, "model_not_allowed")
    router.auto = None
    not_offered = call(guarded, "POST", URL, BATCH, json={**BODY, "model": "auto"})
    assert_openai_error(not_offered, 404, "model_not_found")


def test_the_openapi_document_tells_of_keys_only_where_they_are_needed(
    guarded: FastAPI, unguarded: FastAPI
) -> None:
    document = guarded.openapi()
    (scheme,) = document["components"]["securitySchemes"].values()
    assert scheme == {"type": "http", "scheme": "bearer"}
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert ("security" in operation) == path.startswith("/v1/")
            assert ("401" in operation["responses"]) == path.startswith("/v1/")
    assert "securitySchemes" not in unguarded.openapi()["components"]
    assert "401" not in json.dumps(unguarded.openapi()["paths"])


def test_neither_keys_nor_hashes_are_told_or_logged(
    guarded: FastAPI, router: FakeRouter, caplog: pytest.LogCaptureFixture
) -> None:
    told = b""

    def ask(key: str | None, **args: Any) -> None:
        nonlocal told
        response = call(guarded, "POST", URL, key, **args)
        told += response.content + str(response.headers).encode()

    with caplog.at_level("DEBUG"):
        ask(ALICE, json=BODY)
        ask(ALICE, json={**BODY, "stream": True, "partial_images": 1})
        ask(ALICE, json={**BODY, "user": "somebody"})
        ask(None, json=BODY)
        ask(f"{ALICE}x", json=BODY)
        ask(BATCH, json={**BODY, "model": "original"})
        ask(ALICE, content=b"{", headers=JSON)
        ask(ALICE, json=BODY, headers={"x-request-timeout-seconds": "9"})
        ask(ALICE, json=BODY, headers={"x": "y" * MAX_HEADER_BYTES})
        for router.fault in (InvalidApiKey("x"), RuntimeError("x")):
            ask(ALICE, json=BODY)
        router.fault, router.late_fault = None, RuntimeError("x")
        ask(ALICE, json={**BODY, "stream": True, "partial_images": 1})
    assert "key alice" in caplog.text
    assert "key batch" in caplog.text
    for key, line in ((ALICE, ALICES_LINE), (BATCH, BATCHS_LINE)):
        for secret in (key, key[4:], line.split()[1], hashlib.sha256(key.encode()).hexdigest()[:8]):
            assert secret not in caplog.text
            assert secret.encode() not in told


async def test_the_key_goes_no_further_than_the_gate(keys: KeyFile) -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    headers = [(b"accept", b"*/*"), (b"authorization", f"Bearer {ALICE}".encode())]
    scope = {"type": "http", "path": "/v1/models", "headers": headers}
    await Gate(app, lambda fault: app, HttpOptions(), keys, 1)(scope, None, None)
    assert seen[0]["headers"] == [(b"accept", b"*/*")]
    assert ALICE not in repr(seen)


def test_a_picture_says_nothing_of_its_key(guarded: FastAPI) -> None:
    response = call(guarded, "POST", URL, ALICE, json=BODY, headers={"accept": "image/png"})
    assert "alice" not in repr(Image.open(io.BytesIO(response.content)).info)


# Places ----------------------------------------------------------------------------------------


@pytest.fixture
def slow() -> SlowRouter:
    return SlowRouter()


@pytest.fixture
def app(slow: SlowRouter, keys: KeyFile) -> FastAPI:
    """A key may have two requests for each variant at once."""
    return build_api(slow, HttpOptions(max_requests_per_key=2, retry_after_s=3), keys)


async def test_a_key_has_so_many_requests_at_once_and_no_other_keys(
    slow: SlowRouter, app: FastAPI
) -> None:
    async with client_of(app, ALICE) as alice, client_of(app, BATCH) as batch:
        first = [asyncio.create_task(alice.post(URL, json=BODY)) for _ in range(2)]
        await until(lambda: slow.drawing == 2)
        refused = await alice.post(URL, json=BODY)
        error = assert_openai_error(refused, 429, "too_many_requests")
        assert error["type"] == "rate_limit_error"
        assert refused.headers["retry-after"] == "3"
        distilled = {**BODY, "model": "distilled"}
        others = [asyncio.create_task(one.post(URL, json=distilled)) for one in (alice, batch)]
        await until(lambda: slow.drawing == 4)
        assert (await alice.get("/healthz")).status_code == 200
        slow.may_draw.set()
        assert [(await task).status_code for task in (*first, *others)] == [200] * 4
        assert (await alice.post(URL, json=BODY)).status_code == 200


async def test_requests_that_have_not_said_what_they_want_are_bounded_too(
    slow: SlowRouter, app: FastAPI
) -> None:
    sending = 0

    async def slowly() -> AsyncIterator[bytes]:
        nonlocal sending
        sending += 1
        yield b"{"
        await slow.may_draw.wait()

    most = 2 * len(slow.variants)
    async with client_of(app, ALICE) as alice:
        slow_ones = [
            asyncio.create_task(alice.post(URL, content=slowly(), headers=JSON))
            for _ in range(most)
        ]
        await until(lambda: sending == most)
        refused = assert_openai_error(await alice.post(URL, json=BODY), 429, "too_many_requests")
        assert f"has {most} requests under way" in refused["message"]
        slow.may_draw.set()
        assert {(await task).status_code for task in slow_ones} == {400}


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda router, task: router.may_draw.set(), id="it-ends"),
        pytest.param(lambda router, task: task.cancel(), id="its-client-leaves"),
    ],
)
async def test_a_stream_holds_its_place_until(
    slow: SlowRouter, app: FastAPI, end: Callable[[SlowRouter, Any], object]
) -> None:
    parts = 0
    body = json.dumps({**BODY, "stream": True, "partial_images": 1}).encode()

    async def stream() -> None:
        messages: Iterator[Any] = iter([{"type": "http.request", "body": body}])

        async def receive() -> Any:
            for message in messages:
                return message
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            nonlocal parts
            parts += message["type"] == "http.response.body"

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "method": "POST", "path": URL,
            "query_string": b"", "headers": [
                (b"content-type", b"application/json"),
                (b"authorization", f"Bearer {ALICE}".encode()),
            ],
        }  # fmt: skip
        await app(scope, receive, send)

    streams = [asyncio.create_task(stream()) for _ in range(2)]
    # Each has sent a preview.
    await until(lambda: parts == 2 and slow.drawing == 2)
    async with client_of(app, ALICE) as alice:
        assert_openai_error(await alice.post(URL, json=BODY), 429, "too_many_requests")
        assert (await alice.get("/v1/models")).status_code == 200
        for task in streams:
            end(slow, task)
        await asyncio.gather(*streams, return_exceptions=True)
        slow.may_draw.set()
        assert (await alice.post(URL, json=BODY)).status_code == 200


async def test_a_request_that_fails_gives_its_place_back(slow: SlowRouter, app: FastAPI) -> None:
    slow.may_draw.set()
    slow.fault = RuntimeError("x")
    async with client_of(app, ALICE) as alice:
        for _ in range(5):
            assert (await alice.post(URL, json=BODY)).status_code == 500
            assert (await alice.post(URL, content=b"{", headers=JSON)).status_code == 400


def test_counting_keys_needs_keys(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_requests_per_key: needs api_keys_file"):
        AppArgs(max_requests_per_key=2)
    assert AppArgs(max_requests_per_key=2, api_keys_file=tmp_path).max_requests_per_key == 2


# Headers and bodies ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-request-timeout-seconds", "3600"),
        ("X-Request-Timeout-Seconds", "1"),
        ("x-request-timeout-seconds", "x"),
        ("x-request-disconnect-disabled", "?1"),
        ("X-REQUEST-DISCONNECT-DISABLED", "?0"),
    ],
)
@pytest.mark.parametrize(("method", "url"), [("POST", URL), ("GET", "/healthz"), ("GET", "/none")])
def test_headers_that_lift_serves_limits_are_refused_by_name(
    unguarded: FastAPI, router: FakeRouter, name: str, value: str, method: str, url: str
) -> None:
    response = call(unguarded, method, url, json=BODY, headers={name: value})
    error = assert_openai_error(response, 400, "invalid_value")
    assert error["param"] == name.lower()
    assert error["message"].startswith(name.lower())
    assert router.asked == []


def test_a_hundred_headers_are_allowed_and_one_more_is_not(unguarded: FastAPI) -> None:
    def ask(count: int) -> httpx.Response:
        return call(with_scope(unguarded, {"headers": [(b"x", b"y")] * count}), "GET", "/healthz")

    assert ask(MAX_HEADERS).status_code == 200
    refused = ask(MAX_HEADERS + 1)
    assert_openai_error(refused, 431, "headers_too_large")
    assert refused.headers["connection"] == "close"


def test_headers_of_over_16_kib_are_refused(unguarded: FastAPI) -> None:
    fits = {"x": "y" * (MAX_HEADER_BYTES - 1024)}
    assert call(unguarded, "GET", "/healthz", headers=fits).status_code == 200
    refused = call(unguarded, "GET", "/healthz", headers={"x": "y" * MAX_HEADER_BYTES})
    assert_openai_error(refused, 431, "headers_too_large")


def test_a_body_that_does_not_arrive_in_time_is_refused(router: FakeRouter) -> None:
    async def dripping() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    app = build_api(router, HttpOptions(body_timeout_s=1))
    response = call(app, "POST", URL, content=dripping(), headers=JSON)
    error = assert_openai_error(response, 408, RequestTimeout.code)
    assert error["message"].startswith("body: 1 bytes came in 1 s")
    assert response.headers["connection"] == "close"
    assert router.asked == []
