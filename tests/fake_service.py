"""The Images API without a model: known latencies, a stall, refusals and wrong pictures."""

import asyncio
import base64
import io
import json
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from aiohttp import web
from PIL import Image

from loadtests.client import Answer, Client
from loadtests.replies import judge


def reply_to(asked: dict[str, Any], size: str = "64x64") -> dict[str, Any]:
    """A right reply: pictures of noise that tell the seed."""
    size = asked.get("size", size)
    width_px, height_px = map(int, size.split("x"))
    data = []
    for index in range(asked.get("n", 1)):
        seed = (asked["seed"] + index) % 2**32
        noise = np.random.default_rng(seed).integers(0, 255, (height_px, width_px, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "PNG")
        data.append({"b64_json": base64.b64encode(buffer.getvalue()).decode(), "seed": seed})
    timings = {"queue_s": 0.0, "denoise_s": 0.0, "decode_s": 0.0, "encode_s": 0.0}
    return {
        "created": 0,
        "model": asked["model"],
        "data": data,
        "output_format": "png",
        "size": size,
        "timings": timings,
        "warnings": [],
    }


@dataclass
class FakeService:
    latency_s: float = 0.02
    # Between these two moments after the first request, nothing is answered.
    stall_s: tuple[float, float] = (0.0, 0.0)
    # Nothing is answered before so many requests have come; or after so many.
    answer_from: int = 0
    answer_none_from: int = 10**9
    # Every so many requests are refused with 429, or answered with another request's seed.
    reject_every: int = 0
    retry_after_s: int = 7
    wrong_every: int = 0
    # Seconds an image with 25 steps by variant, one after another, as a replica draws them.
    serial_s: dict[str, float] = field(default_factory=dict)
    # What an edit takes of that.
    edit_share: float = 1.0
    # Optimisations that failed in a variant's replica, and why.
    left_off: dict[str, dict[str, str]] = field(default_factory=dict)
    # Fewer steps are refused with 400.
    least_steps: int = 0
    # `auto` takes the first of them whose queue is done within so many seconds; None: no `auto`.
    auto_slo_s: float | None = None
    # Of a stream: seconds before each event; no end mark.
    preview_s: float = 0.1
    break_streams: bool = False
    family: str = "sd-v1"
    # By variant and diffusers' name, as `/v1/models` has them; without, all are made of the same.
    components: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    random_weights: bool = False
    # What each variant's replica says of itself.
    replica: dict[str, Any] | None = field(
        default_factory=lambda: {
            "device": "a fake GPU",
            "memory": {"peak_reserved_bytes": 3 * 2**30, "peak_rss_bytes": 2**30},
            "switched_on": ["unet: compile"],
            "preparation_s": {"load": 2.0, "unet: compile": 61.25},
        }
    )
    url: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    arrived_s: list[float] = field(default_factory=list)
    # Who answered for `auto`, and how many requests were under way at once.
    answered: Counter[str] = field(default_factory=Counter)
    most_at_once: int = 0
    keys: set[str | None] = field(default_factory=set)
    _picture: str = field(
        default_factory=lambda: reply_to({"model": "", "seed": 0})["data"][0]["b64_json"]
    )

    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)
    _under_way: Counter[str] = field(default_factory=Counter)
    _at_once: int = 0

    async def models(self, _: web.Request) -> web.Response:
        models = [
            {
                "id": name,
                "family": self.family,
                "random_weights": self.random_weights,
                "components": self.components.get(name, {}),
                "defaults": {
                    "size": "64x64",
                    "num_inference_steps": 25,
                    "guidance_scale": 7.5,
                    "scheduler": "pndm",
                },
                "schedulers": ["pndm", "ddim", "dpm++", "euler"],
                "bounds": {"num_inference_steps": [1, 150]},
                "replica": self.replica
                and {
                    **self.replica,
                    "left_off": self.left_off.get(name, {}),
                },
            }
            for name in self.serial_s
        ]
        auto = {"kind": "quality-first", "slo_s": self.auto_slo_s} if self.auto_slo_s else None
        return web.json_response({"object": "list", "data": models, "auto": auto})

    async def ready(self, _: web.Request) -> web.Response:
        warm = dict.fromkeys(self.serial_s, 1)
        return web.json_response({"ready": True, "warm_replicas": warm, "minimum": 1})

    def choose(self) -> tuple[str, str]:
        """Who answers for `auto`, and why."""
        assert self.auto_slo_s is not None
        for name, seconds in self.serial_s.items():
            if (self._under_way[name] + 1) * seconds <= self.auto_slo_s:
                best = name == next(iter(self.serial_s))
                return name, "the best, in time" if best else "degraded under load"
        return name, "none in time, the fastest"

    async def generate(self, request: web.Request) -> web.StreamResponse:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._answer(request)
        finally:
            self._at_once -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        asked = await _asked(request)
        self.asked.append(asked)
        reason = None
        if asked["model"] == "auto" and self.auto_slo_s:
            name, reason = self.choose()
            asked = {**asked, "model": name}
            self.answered[name] += 1
        self.arrived_s.append(asyncio.get_running_loop().time())
        self.keys.add(request.headers.get("Authorization"))
        count, since_first_s = len(self.asked), self.arrived_s[-1] - self.arrived_s[0]
        begin_s, end_s = self.stall_s
        if begin_s <= since_first_s < end_s:
            await asyncio.sleep(end_s - since_first_s)
        await asyncio.sleep(self.latency_s)
        while count > self.answer_none_from or len(self.asked) < self.answer_from:
            await asyncio.sleep(0.01)
        if asked.get("num_inference_steps", 25) < self.least_steps:
            error = {"message": "too few", "type": "invalid_request_error", "param": None}
            return web.json_response({"error": error}, status=400)
        image_s = self.serial_s.get(asked["model"], 0.0) * asked.get("num_inference_steps", 25) / 25
        if asked.get("image") or asked.get("edited"):
            image_s *= self.edit_share
        if asked["model"] in self.serial_s:
            self._under_way[asked["model"]] += 1
            async with self._locks.setdefault(asked["model"], asyncio.Lock()):
                await asyncio.sleep(image_s * asked.get("n", 1))
            self._under_way[asked["model"]] -= 1
        if self.reject_every and count % self.reject_every == 0:
            error = {"message": "full", "type": "rate_limit_error", "param": None, "code": "x"}
            return web.json_response(
                {"error": error}, status=429, headers={"Retry-After": str(self.retry_after_s)}
            )
        if asked.get("stream"):
            return await self._stream(request, asked)
        # The same picture each time: drawing one would take longer than the latency.
        reply = {**reply_to({**asked, "n": 0}), "model_reason": reason, "data": []}
        reply["timings"]["denoise_s"] = image_s
        for index in range(asked.get("n", 1)):
            seed = (asked["seed"] + index) % 2**32
            if self.wrong_every and count % self.wrong_every == 0:
                seed = (seed + 1) % 2**32
            reply["data"].append({"b64_json": self._picture, "seed": seed})
        return web.Response(text=json.dumps(reply), content_type="application/json")

    async def _stream(self, request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        """Previews and the picture, one `preview_s` after the other."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        fields = {
            "b64_json": self._picture,
            "seed": asked["seed"],
            "image_index": 0,
            "model": asked["model"],
            "size": asked.get("size", "64x64"),
        }
        kinds = ["partial_image"] * asked["partial_images"] + ["completed"]
        for kind in kinds:
            await asyncio.sleep(self.preview_s)
            event = json.dumps({"type": f"image_generation.{kind}", **fields})
            await response.write(f": waiting\n\nevent: x\ndata: {event}\n\n".encode())
        if not self.break_streams:
            await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response


async def _asked(request: web.Request) -> dict[str, Any]:
    """The fields of a JSON body or of an edit's form."""
    if request.content_type == "application/json":
        asked: dict[str, Any] = await request.json()
        return asked
    form = await request.post()
    text = {name: value for name, value in form.items() if isinstance(value, str)}
    numbers = {name: int(value) for name, value in text.items() if value.isdigit()}
    return {**text, **numbers, "edited": "image" in form}


@contextmanager
def serving(service: FakeService) -> Iterator[FakeService]:
    """Serve on a free port of the loopback address, on a thread of its own."""
    loop = asyncio.new_event_loop()
    app = web.Application()
    app.router.add_post("/v1/images/generations", service.generate)
    app.router.add_post("/v1/images/edits", service.generate)
    app.router.add_get("/v1/models", service.models)
    app.router.add_get("/readyz", service.ready)
    # At its end it waits for nobody.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def start() -> int:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return int(runner.addresses[0][1])

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    port = asyncio.run_coroutine_threadsafe(start(), loop).result(120)
    service.url = f"http://127.0.0.1:{port}"
    try:
        yield service
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(120)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass
class _Request:
    """What the service reads of a request."""

    asked: dict[str, Any]
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json"

    async def json(self) -> dict[str, Any]:
        return self.asked


class DirectClient(Client):
    """A load test's client that calls the service without HTTP, so that time can be virtual."""

    def __init__(self, service: FakeService) -> None:
        self.service = service

    async def draw(self, asked: dict[str, Any]) -> Answer:
        response = await self.service.generate(cast("web.Request", _Request(asked)))
        done_s = asyncio.get_running_loop().time()
        assert isinstance(response, web.Response)
        content = bytes(response.body)  # type: ignore[arg-type]
        verdict = judge(response.status, response.headers, content, asked)
        return Answer(response.status, content, done_s, verdict)

    async def get(self, path: str) -> Any:
        route = {"/v1/models": self.service.models, "/readyz": self.service.ready}[path]
        response = await route(cast("web.Request", _Request({})))
        return json.loads(cast("str", response.text))


@asynccontextmanager
async def direct(service: FakeService) -> AsyncIterator[Client]:
    """In place of `loadtests.client.connected`."""
    yield DirectClient(service)
