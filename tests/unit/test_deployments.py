"""The replica as a plain class: Serve calls the same methods."""

import asyncio
import io

import pytest
from PIL import Image

from serve.deployments import VariantReplica
from serve.errors import EngineClosed
from serve.generation import PictureFormat
from serve.variants import MINIATURE
from tests.fakes import FakeDenoiser, generation

VARIANT = MINIATURE.variants["distilled"]


async def replica_over(
    denoiser: FakeDenoiser, stuck_after_s: float = 60, note: str | None = None
) -> VariantReplica:
    replica = VariantReplica.__new__(VariantReplica)
    await VariantReplica.__init__(replica, VARIANT, lambda _: denoiser, stuck_after_s, note)
    return replica


def test_a_replica_is_warm_once_constructed() -> None:
    async def scenario() -> None:
        denoiser = FakeDenoiser()
        await replica_over(denoiser)
        assert denoiser.steps == 4  # With and without guidance, two steps each.

    asyncio.run(scenario())


def test_a_note_on_the_weights_is_in_every_reply_and_picture() -> None:
    async def scenario() -> None:
        replica = await replica_over(FakeDenoiser(), note="random values")
        drawing = await replica.draw(generation(), PictureFormat("png", 90))
        assert drawing.warnings == ("random values",)
        exif = Image.open(io.BytesIO(drawing.pictures[0])).getexif()
        assert list(exif.values()) == ["random values"]

    asyncio.run(scenario())


def test_a_denoiser_that_cannot_draw_fails_the_construction() -> None:
    async def scenario() -> None:
        with pytest.raises(ValueError, match="a bad prompt"):
            await replica_over(FakeDenoiser(fail_on="warm-up"))

    asyncio.run(scenario())


def test_a_drawing_holds_encoded_pictures_and_every_time() -> None:
    async def scenario() -> None:
        replica = await replica_over(FakeDenoiser(step_s=0.001))
        drawing = await replica.draw(generation(seeds=(1, 2)), PictureFormat("webp", 90))
        assert [Image.open(io.BytesIO(one)).format for one in drawing.pictures] == ["WEBP"] * 2
        assert drawing.timings.denoise_s > 0
        assert drawing.timings.encode_s > 0

    asyncio.run(scenario())


def test_a_cancelled_drawing_frees_the_device() -> None:
    async def scenario() -> None:
        denoiser = FakeDenoiser(step_s=0.01)
        replica = await replica_over(denoiser)
        drawing = asyncio.create_task(
            replica.draw(generation(num_inference_steps=150), PictureFormat("png", 90))
        )
        await asyncio.sleep(0.05)
        drawing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drawing
        await replica.draw(generation(num_inference_steps=1), PictureFormat("png", 90))
        assert denoiser.steps < 50

    asyncio.run(scenario())


def test_health_fails_while_a_device_call_hangs() -> None:
    async def scenario() -> None:
        denoiser = FakeDenoiser()
        replica = await replica_over(denoiser, stuck_after_s=0.2)
        denoiser.gate.clear()
        drawing = asyncio.create_task(replica.draw(generation(), PictureFormat("png", 90)))
        await asyncio.sleep(0.02)
        replica.check_health()  # A step may take its time.
        await asyncio.sleep(0.3)
        with pytest.raises(RuntimeError, match="has lasted"):
            replica.check_health()
        denoiser.gate.set()
        await drawing
        replica.check_health()

    asyncio.run(scenario())


def test_a_stopped_replica_is_unhealthy_and_refuses_work() -> None:
    async def scenario() -> None:
        replica = await replica_over(FakeDenoiser())
        replica.__del__()
        await replica._engine.wait_closed()
        with pytest.raises(RuntimeError, match="thread has ended"):
            replica.check_health()
        with pytest.raises(EngineClosed):
            await replica.draw(generation(), PictureFormat("png", 90))

    asyncio.run(scenario())
