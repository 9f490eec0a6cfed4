"""How many pictures a router process has in memory: of its routes, over a fake router."""

import asyncio
import gc
import json
import threading
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace

import httpx
import pytest

from serve.errors import TooManyRequests
from serve.generation import Choice, Generation
from serve.http import upload_memory
from serve.http.api import build_api
from serve.http.edit_schemas import Picture
from serve.http.options import HttpOptions
from serve.http.upload_memory import UploadMemory
from serve.variants import Variant
from tests.asgi import client_of
from tests.fuzz.forms import BOUNDARY, file, form, text
from tests.machine import HANG_S, until
from tests.unit.http.test_a1111 import IMG2IMG, SlowRouter, assert_their_error, in_base64
from tests.unit.http.test_api import FakeRouter, assert_openai_error
from tests.unit.http.test_edits import URL, picture

MIB = 1024**2
EDIT = form(text("prompt", b"x"), file("image", picture()))
JSON = json.dumps({"prompt": "x", "init_images": [in_base64(picture())]}).encode()
# The route, its body, and how many of its largest bodies there is room for.
EACH = pytest.mark.parametrize(
    ("url", "body", "most"), [(URL, EDIT, 4), (IMG2IMG, JSON, 3)], ids=["edits", "img2img"]
)


def posting(
    client: httpx.AsyncClient, url: str, content: bytes | AsyncIterator[bytes]
) -> "asyncio.Task[httpx.Response]":
    kind = f"multipart/form-data; boundary={BOUNDARY}" if url == URL else "application/json"
    return asyncio.create_task(client.post(url, content=content, headers={"content-type": kind}))


def opened(router: FakeRouter) -> httpx.AsyncClient:
    return client_of(build_api(router, HttpOptions(a1111=True)))


class Sent:
    """A body without a declared length, of which the second half comes when `go` is set."""

    def __init__(self, body: bytes) -> None:
        self.body, self.go, self.begun = body, asyncio.Event(), False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        yield self.body[:100]
        await self.go.wait()
        yield self.body[100:]


@EACH
async def test_an_upload_beyond_the_memory_is_refused_unread(
    url: str, body: bytes, most: int
) -> None:
    async with asyncio.timeout(HANG_S), opened(FakeRouter()) as client:
        sent = [Sent(body) for _ in range(most)]
        leaves, *others = [posting(client, url, aiter(one)) for one in sent]
        await until(lambda: all(one.begun for one in sent))
        excess = Sent(body)
        refused = await posting(client, url, aiter(excess))
        check = assert_openai_error if url == URL else assert_their_error
        check(refused, 429, "too_many_requests")
        assert refused.headers["retry-after"] == "5"
        assert not excess.begun
        # A client that leaves, and requests that fail, make room again.
        leaves.cancel()
        await asyncio.wait([leaves])
        assert (await posting(client, url, body)).status_code == 200
        for one in sent:
            one.body = b"x" * 100
            one.go.set()
        assert [(await other).status_code for other in others] == [400] * (most - 1)
        excess.go.set()
        assert (await posting(client, url, aiter(excess))).status_code == 200


@EACH
async def test_what_is_drawn_has_left_the_memory(url: str, body: bytes, most: int) -> None:
    router = SlowRouter()
    async with asyncio.timeout(HANG_S), opened(router) as client:
        under_way = []
        for _ in range(most + 1):
            sent = Sent(body)
            sent.go.set()
            router.drawing.clear()
            under_way.append(posting(client, url, aiter(sent)))
            await router.drawing.wait()
        gc.collect()
        assert not [one for one in gc.get_objects() if type(one) is Picture]
        router.go.set()
        assert {(await one).status_code for one in under_way} == {200}


async def test_many_small_pictures_are_read_and_few_decoded_at_once() -> None:
    class Undecided(SlowRouter):
        async def choose(self, model: str, resolve: Callable[[Variant], Generation]) -> Choice:
            choice = await super().choose(model, resolve)
            await self.go.wait()
            return choice

    router = Undecided()
    async with asyncio.timeout(HANG_S), opened(router) as client:
        under_way = [posting(client, URL, EDIT) for _ in range(24)]
        await until(lambda: len(router.chosen) == 4)
        # Time for another, were it allowed.
        await asyncio.sleep(0.2)
        assert len(router.chosen) == 4
        router.go.set()
        assert {(await one).status_code for one in under_way} == {200}


async def test_a_client_that_leaves_keeps_its_memory_until_the_thread_is_done() -> None:
    memory, go = UploadMemory(HttpOptions(max_upload_mib=1)), threading.Event()

    async def upload() -> None:
        async with memory.reserve({}, 8 * MIB) as reserved:
            await reserved.decode(go.wait, HANG_S)

    leaves = asyncio.create_task(upload())
    await asyncio.sleep(0.01)
    leaves.cancel()
    await asyncio.sleep(0.01)
    with pytest.raises(TooManyRequests):
        await upload()
    go.set()
    await asyncio.wait([leaves])
    await upload()


async def test_an_uploads_time_is_part_of_max_request_s(monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = iter([100.0, 130.0, 100.0, 300.0])
    monkeypatch.setattr(upload_memory, "time", SimpleNamespace(monotonic=lambda: next(times_s)))
    memory = UploadMemory(HttpOptions(max_request_s=105))
    for left_s in (75.0, 0.0):
        async with memory.reserve({}, MIB) as reserved:
            assert reserved.limits().max_request_s == left_s
