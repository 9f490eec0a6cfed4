"""The same work, done by the engine alone, by the service over HTTP, and by FastAPI alone."""

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from serve.catalogue import MINIATURE
from serve.engine.loop import Engine, Settings
from serve.engine.tickets import Finished
from serve.generation import OutputFormat, PictureFormat
from serve.replica.encoding import Encoder

from ...fixed_step import FixedStep
from ...machine import free_port
from ...published import PROMPT
from .apps import VARIANT, PhotoSteps

# Draws picture number so and so, and returns its answer when it is there.
Ask = Callable[[int], Awaitable[bytes]]


@dataclass(frozen=True)
class Work:
    """What is asked for: steps, and how the picture is encoded.

    As the API's JSON, or with `raw` as the picture's own bytes. Smaller answers than `least_bytes`
    hold no picture. With `edited`, a PNG, it is an edit of that.
    """

    steps: int
    output_format: OutputFormat = "png"
    raw: bool = False
    least_bytes: int = 20_000
    edited: bytes | None = None


class EngineAlone:
    """An engine in this process, with a replica's threads and settings, without the replica."""

    def __init__(self, step_s: float, slots: int) -> None:
        denoiser: FixedStep = PhotoSteps(step_s, ())
        self._engine = Engine(denoiser, Settings("step", slots))
        self._encoder = Encoder()

    def close(self) -> None:
        """End its threads."""
        self._engine.close()
        self._encoder.close()

    def ask(self, work: Work, *, encode: bool) -> Ask:
        """Draws; with `encode` to an encoded picture, which is what a replica hands out."""
        variant = MINIATURE.variants[VARIANT]

        async def draw(request: int) -> bytes:
            picture = b""
            ticket = self._engine.submit(variant.generation(PROMPT, [request], work.steps))
            async for event in ticket.events():
                if encode and isinstance(event, Finished) and event.pixels is not None:
                    picture_format = PictureFormat(work.output_format, 90)
                    picture = await self._encoder.encode(event.pixels, picture_format)
            await ticket.result()
            return picture

        return draw


def over_http(session: aiohttp.ClientSession, url: str, work: Work) -> Ask:
    """Draws with the service at an address, and reads all of the answer.

    Raises:
        RuntimeError: when asked, where the answer is anything but a picture.
    """
    headers = {"Accept": f"image/{work.output_format}" if work.raw else "application/json"}
    body = {
        "model": VARIANT, "prompt": PROMPT, "num_inference_steps": work.steps,
        "output_format": work.output_format,
    }  # fmt: skip

    path = "generations" if work.edited is None else "edits"

    def content(asked: dict[str, Any]) -> dict[str, Any]:
        if work.edited is None:
            return {"json": asked}
        # All steps: of few, a smaller share would leave none.
        form = aiohttp.FormData({name: str(value) for name, value in asked.items()})
        form.add_field("strength", "1")
        form.add_field("image", work.edited, filename="photo.png", content_type="image/png")
        return {"data": form}

    async def draw(request: int) -> bytes:
        asked = content({**body, "seed": request})
        async with session.post(f"{url}/v1/images/{path}", headers=headers, **asked) as response:
            answer = await response.read()
        if response.status != 200 or len(answer) < work.least_bytes:
            raise RuntimeError(f"{url}: {response.status}: {answer[:200]!r} instead of a picture")
        return answer

    return draw


@contextlib.contextmanager
def fastapi_floor(answer: bytes) -> Iterator[str]:
    """Start FastAPI with that answer on a free port, and end it afterwards; yields its address."""
    port = free_port()
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        Path(file.name).write_bytes(answer)
        command = [sys.executable, "-m", f"{__package__}.fastapi_floor", str(port), file.name]
        process = subprocess.Popen(command)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()
