"""The real routes and page over a router that draws when a test lets it, on a free port."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import numpy as np
import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.generation import (
    Drawing,
    FinishedPicture,
    Generation,
    PartialPicture,
    PictureEvent,
    PictureFormat,
    Timings,
)
from serve.http.api import build_api
from serve.http.options import HttpOptions
from serve.replica.encoding import encode
from tests.machine import HANG_S, wait_for
from tests.unit.http.test_api import FakeRouter

# By variant: none is another's.
TIMINGS = {
    "original": Timings(0.11, 2.0, 0.5, 0.01),
    "distilled": Timings(0.12, 1.0, 0.5, 0.01),
    "distilled-tiny-vae": Timings(0.13, 1.0, 0.25, 0.01),
}


def colour(variant: str, seed: int, preview: int = 3) -> tuple[int, int, int]:
    """What a picture is filled with; the finished one is number 3."""
    return (seed % 256, 50 * list(TIMINGS).index(variant) + 50, 60 * preview + 60)


class GatedRouter(FakeRouter):
    """Each event of a stream waits for a test's permission where `held`, else for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.held = False
        self.faults: dict[str, Exception] = {}
        self.late_faults: dict[str, Exception] = {}
        self.left: list[str] = []
        self._gates = {name: asyncio.Semaphore(0) for name in TIMINGS}

    def let(self, variant: str) -> None:
        self._gates[variant].release()

    def picture(self, generation: Generation, picture_format: PictureFormat, preview: int) -> bytes:
        pixels = np.empty((generation.height_px, generation.width_px, 3), np.uint8)
        pixels[:] = colour(generation.variant, generation.seeds[0], preview)
        return encode(pixels, picture_format)

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        self.asked.append((generation.variant, generation, picture_format))
        picture = self.picture(generation, picture_format, 3)
        return Drawing((picture,), TIMINGS[generation.variant], self.warnings)

    async def stream(
        self, generation: Generation, picture_format: PictureFormat
    ) -> AsyncIterator[PictureEvent]:
        name = generation.variant
        self.asked.append((name, generation, picture_format))
        if name in self.faults:
            raise self.faults.pop(name)
        done = False
        try:
            for index in range(generation.previews):
                await self._permission(name)
                yield PartialPicture(0, index, self.picture(generation, picture_format, index))
            await self._permission(name)
            done = True
            if name in self.late_faults:
                raise self.late_faults.pop(name)
            picture = self.picture(generation, picture_format, 3)
            yield FinishedPicture(0, picture, TIMINGS[name], self.warnings)
        finally:
            if not done:
                self.left.append(name)

    async def _permission(self, variant: str) -> None:
        if self.held:
            await self._gates[variant].acquire()


class Service:
    """The application on a thread of its own. Where `key` is set, `locked` paths ask for it."""

    def __init__(self) -> None:
        self.router = GatedRouter()
        self.key: str | None = None
        self.locked = "/v1/"
        app = build_api(self.router, HttpOptions())
        self._server = uvicorn.Server(
            uvicorn.Config(self._guarded(app), port=0, log_level="critical", lifespan="off")
        )
        self._thread = threading.Thread(target=self._server.run)

    def start(self) -> None:
        self._thread.start()
        wait_for(lambda: self._server.started)
        (listening,) = self._server.servers
        self._loop = listening.get_loop()
        self.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"

    def let(self, variant: str, events: int = 1) -> None:
        for _ in range(events):
            self._loop.call_soon_threadsafe(self.router.let, variant)

    def cut(self) -> None:
        """Break every connection, as a network does: without an end."""

        def abort() -> None:
            for connection in list(self._server.server_state.connections):
                connection.transport.abort()

        self._loop.call_soon_threadsafe(abort)

    def stop(self) -> None:
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(HANG_S)
        assert not self._thread.is_alive()

    def await_left(self, variants: list[str]) -> None:
        """Until the streams of these, and of no others, were closed before their end."""
        wait_for(lambda: sorted(self.router.left) == sorted(variants))

    def _guarded(self, app: ASGIApp) -> ASGIApp:
        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            given = dict(scope["headers"]).get(b"authorization", b"").decode()
            if self.key and scope["path"].startswith(self.locked) and given != f"Bearer {self.key}":
                error = {
                    "message": "no such key",
                    "type": "invalid_request_error",
                    "param": None,
                    "code": "invalid_api_key",
                }
                await JSONResponse({"error": error}, 401)(scope, receive, send)
            else:
                await app(scope, receive, send)

        return guarded


@contextmanager
def serving() -> Iterator[Service]:
    service = Service()
    service.start()
    try:
        yield service
    finally:
        service.stop()
