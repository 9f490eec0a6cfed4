"""The same work, done by the engine that is called directly, and by the whole service over it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp

from serve.config import AppArgs
from serve.engine.loop import Engine, Settings
from serve.engine.tickets import Finished
from serve.generation import Generation, OutputFormat, PictureFormat
from serve.replica.encoding import Encoder

from ..fixed_step import FixedStep
from .device import Painter
from .rivals import PATH, PROMPT, VARIANT

# No photo is smaller, in any format.
_LEAST_BYTES = 20_000
# Asks for picture number so and so, and returns when it is there.
Ask = Callable[[int], Awaitable[None]]


@dataclass(frozen=True)
class Work:
    """What is asked for: steps, and how the picture is encoded.

    As the API's JSON, or with `raw` as the picture's own bytes.
    """

    steps: int
    output_format: OutputFormat
    raw: bool = False


@dataclass(frozen=True)
class Device:
    """How long a step takes, and how many images share it."""

    step_s: float
    slots: int

    def app_args(self) -> AppArgs:
        """The application's arguments: nothing is refused, as long as the queue is long."""
        return AppArgs(
            variants=(VARIANT,),
            num_cpus=0,
            slots=self.slots,
            max_queued_requests=8 * self.slots,
            max_ongoing_requests=16 * self.slots,
        )


class EngineAlone:
    """An engine in this process, with a replica's threads and settings, without the replica."""

    def __init__(self, device: Device) -> None:
        painter: FixedStep = Painter(device.step_s, ())
        self._engine = Engine(painter, Settings("step", device.slots))
        self._encoder = Encoder()

    def close(self) -> None:
        """End its threads."""
        self._engine.close()
        self._encoder.close()

    def ask(self, work: Work, *, encode: bool) -> Ask:
        """Draws; with `encode` to an encoded picture, which is what a replica hands out."""

        async def draw(request: int) -> None:
            ticket = self._engine.submit(_generation(work, request))
            async for event in ticket.events():
                if encode and isinstance(event, Finished) and event.pixels is not None:
                    picture_format = PictureFormat(work.output_format, 90)
                    await self._encoder.encode(event.pixels, picture_format)
            await ticket.result()

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

    async def draw(request: int) -> None:
        answer = await post(session, url, {**body, "seed": request}, headers)
        if len(answer) < _LEAST_BYTES:
            raise RuntimeError(f"{answer[:200]!r} instead of a picture")

    return draw


async def post(
    session: aiohttp.ClientSession,
    url: str,
    body: Mapping[str, Any],
    headers: Mapping[str, str] | None = None,
) -> bytes:
    """The answer's bytes.

    Raises:
        RuntimeError: its status is not 200.
    """
    async with session.post(f"{url}{PATH}", json=body, headers=headers) as response:
        answer = await response.read()
    if response.status != 200:
        raise RuntimeError(f"{url}: {response.status}: {answer[:200]!r}")
    return answer


def _generation(work: Work, request: int) -> Generation:
    return Generation(
        variant=VARIANT,
        prompt=PROMPT,
        negative_prompt="",
        seeds=(request,),
        width_px=96,
        height_px=96,
        num_inference_steps=work.steps,
        guidance_scale=4.0,
        scheduler="pndm",
        deadline_at=None,
        previews=0,
    )
