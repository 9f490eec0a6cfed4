"""The replica as a plain class: Serve calls the same methods."""

import asyncio
import io
import threading
import time
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from serve.catalogue import MINIATURE
from serve.errors import (
    DeadlineUnreachable,
    EngineClosed,
    Flagged,
    InvalidRequest,
    OutOfDeviceMemory,
    Overloaded,
)
from serve.generation import VERSION, FinishedPicture, Generation, PartialPicture, PictureFormat
from serve.metrics import ReplicaMetrics
from serve.replica.options import ReplicaOptions
from serve.replica.replica import VariantReplica
from serve.variants import Variant
from tests.fakes import FakeDenoiser, FakeTrajectory, generation
from tests.machine import HANG_S, until, wait_for

VARIANT = MINIATURE.variants["distilled"]
PNG = PictureFormat("png", 90)


async def replica_over(
    denoiser: FakeDenoiser,
    stuck_after_s: float = 60,
    note: str | None = None,
    slots: int | None = 1,
    variants: Sequence[Variant] = (VARIANT,),
    safety_checker: bool = False,
) -> VariantReplica:
    replica = VariantReplica.__new__(VariantReplica)
    await VariantReplica.__init__(
        replica,
        variants,
        lambda _: denoiser,
        ReplicaOptions(
            slots=slots,
            max_queue_s=60,
            max_queued_requests=2,
            stuck_after_s=stuck_after_s,
            safety_checker=safety_checker,
        ),
        {variant.name: note for variant in variants},
    )
    return replica


def job(**changes: object) -> Generation:
    return generation(variant=VARIANT.name, **changes)


async def test_a_replica_is_warm_once_constructed() -> None:
    denoiser = FakeDenoiser()
    await replica_over(denoiser, variants=list(MINIATURE.variants.values()))
    drawn = {
        (one.job.variant, one.job.guidance_scale > 1) for call in denoiser.calls for one in call
    }
    guided = {(one.name, True) for one in MINIATURE.variants.values() if not one.few_step}
    assert drawn == guided | {(name, False) for name in MINIATURE.variants}
    assert denoiser.previews


async def test_the_sweep_finds_the_slots_and_a_number_pins_them() -> None:
    # A step takes as long for one image as for many.
    replica = await replica_over(FakeDenoiser(step_s=0.005), slots=None)
    assert replica._engine.cap == 16
    replica = await replica_over(FakeDenoiser(step_s=0.005, room=3), slots=None)
    assert replica._engine.cap == 2
    replica = await replica_over(FakeDenoiser(), slots=5)
    assert replica._engine.cap == 5


async def test_a_deadline_in_unix_seconds_is_kept_on_the_replicas_own_clock() -> None:
    replica = await replica_over(FakeDenoiser(step_s=0.02))
    with pytest.raises(InvalidRequest, match="deadline_s: even alone"):
        await replica.draw(job(num_inference_steps=100, deadline_at=time.time() + 1), PNG)
    assert await replica.draw(job(deadline_at=time.time() + 60), PNG)


async def test_a_deadline_that_waiting_cannot_save_is_no_overload_in_a_full_queue() -> None:
    denoiser = FakeDenoiser(step_s=0.01)
    replica = await replica_over(denoiser)
    denoiser.gate.clear()
    waiting = [asyncio.create_task(replica.draw(job(), PNG))]
    await until(lambda: replica._engine.occupied == (1, 0))
    waiting += [asyncio.create_task(replica.draw(job(), PNG)) for _ in range(2)]
    await until(lambda: replica._engine.waiting == 2)
    with pytest.raises(Overloaded):
        await replica.draw(job(), PNG)
    with pytest.raises(InvalidRequest, match="deadline_s: even alone"):
        await replica.draw(job(num_inference_steps=1000, deadline_at=time.time() + 0.5), PNG)
    denoiser.gate.set()
    await asyncio.gather(*waiting)


async def test_health_fails_once_everything_fails() -> None:
    replica = await replica_over(FakeDenoiser())
    for _ in range(5):
        replica.check_health()
        with pytest.raises(ValueError, match="a bad step"):
            await replica.draw(job(prompt="poisoned step"), PNG)
    with pytest.raises(RuntimeError, match="the last 5 requests failed"):
        replica.check_health()


async def test_a_note_on_the_weights_is_in_every_reply_and_picture() -> None:
    replica = await replica_over(FakeDenoiser(), note="random values")
    drawing = await replica.draw(job(), PNG)
    assert drawing.warnings == ("random values",)
    exif = Image.open(io.BytesIO(drawing.pictures[0])).getexif()
    assert list(exif.values()) == ["random values"]


async def test_a_denoiser_that_cannot_draw_fails_the_construction() -> None:
    with pytest.raises(OutOfDeviceMemory):
        await replica_over(FakeDenoiser(room=0))


def test_a_warm_up_that_fails_leaves_no_thread() -> None:
    class Undecodable(FakeDenoiser):
        def decode(self, trajectories: list[FakeTrajectory]) -> NDArray[np.uint8]:
            raise ValueError("cannot decode")

    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="cannot decode"):
        asyncio.run(replica_over(Undecodable()))
    wait_for(lambda: before.issuperset(threading.enumerate()))


async def test_a_drawing_holds_encoded_pictures_and_every_time() -> None:
    replica = await replica_over(FakeDenoiser(step_s=0.001))
    drawing = await replica.draw(job(seeds=(1, 2)), PictureFormat("webp", 90))
    assert [Image.open(io.BytesIO(one)).format for one in drawing.pictures] == ["WEBP"] * 2
    assert drawing.timings.denoise_s > 0
    assert drawing.timings.encode_s > 0


async def test_a_cancelled_drawing_frees_the_device() -> None:
    denoiser = FakeDenoiser(step_s=0.05)
    replica = await replica_over(denoiser)
    steps = denoiser.steps
    drawing = asyncio.create_task(replica.draw(job(num_inference_steps=150), PNG))
    await until(lambda: denoiser.steps > steps)
    drawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drawing
    await replica.draw(job(num_inference_steps=1), PNG)
    assert denoiser.steps < steps + 150


async def test_health_fails_while_a_device_call_hangs() -> None:
    denoiser = FakeDenoiser()
    replica = await replica_over(denoiser, stuck_after_s=2)
    denoiser.gate.clear()
    drawing = asyncio.create_task(replica.draw(job(), PNG))
    await until(lambda: replica._engine.call_age_s > 0)
    replica.check_health()  # A step may take its time.
    await until(lambda: replica._engine.call_age_s > 2)
    with pytest.raises(RuntimeError, match="has lasted"):
        replica.check_health()
    denoiser.gate.set()
    await drawing
    replica.check_health()


async def test_a_stopped_replica_is_unhealthy_and_refuses_work() -> None:
    replica = await replica_over(FakeDenoiser())
    replica.__del__()
    await replica._engine.wait_closed()
    with pytest.raises(RuntimeError, match="thread of the engine has ended"):
        replica.check_health()
    with pytest.raises(EngineClosed):
        await replica.draw(job(), PNG)


async def test_a_png_tells_what_it_was_drawn_from() -> None:
    replica = await replica_over(FakeDenoiser())
    asked = job(seeds=(1, 2), prompt="a 花", negative_prompt="dark", num_inference_steps=3)
    drawing = await replica.draw(asked, PNG)
    assert Image.open(io.BytesIO(drawing.pictures[1])).text == {  # type: ignore[attr-defined]
        "parameters": "a 花\nNegative prompt: dark\nSteps: 3, Sampler: PLMS, CFG scale: 4, "
        f"Seed: 2, Size: 64x64, Model: distilled, Version: distilled-sd-serve {VERSION}"
    }


async def test_a_stream_tells_previews_and_then_each_picture() -> None:
    replica = await replica_over(FakeDenoiser(step_s=0.02), note="random values", slots=2)
    asked = job(seeds=(1, 2), num_inference_steps=8, previews=3)
    events = [event async for event in replica.stream(asked, PictureFormat("jpeg", 90))]
    previews = [event for event in events if isinstance(event, PartialPicture)]
    assert sorted((event.image, event.index) for event in previews) == [
        (image, index) for image in (0, 1) for index in (0, 1, 2)
    ]
    finished = [event for event in events if isinstance(event, FinishedPicture)]
    assert [event.image for event in finished] == [0, 1]
    for event in finished:
        assert event.warnings == ("random values",)
        assert event.timings.denoise_s > 0.1
    assert {Image.open(io.BytesIO(event.picture)).format for event in events} == {"JPEG"}


async def test_a_stream_that_is_closed_frees_the_device() -> None:
    denoiser = FakeDenoiser(step_s=0.01)
    replica = await replica_over(denoiser)
    warm = denoiser.steps
    events = replica.stream(job(num_inference_steps=150, previews=3), PNG)
    await anext(events)
    await events.aclose()  # type: ignore[attr-defined]
    await replica.draw(job(num_inference_steps=1), PNG)
    assert denoiser.steps - warm < 60


async def test_a_request_over_the_limits_is_refused_before_any_work() -> None:
    denoiser = FakeDenoiser(step_s=0.01)
    replica = await replica_over(denoiser)
    begun = denoiser.begun
    denoiser.gate.clear()
    drawings = []
    for _ in range(4):
        drawings.append(asyncio.create_task(replica.draw(job(), PNG)))
        await until(lambda: denoiser.begun > begun)  # The first one has the slot.
    with pytest.raises(Overloaded, match="2 requests wait already"):
        await drawings.pop()
    denoiser.gate.set()
    await asyncio.gather(*drawings)
    assert denoiser.begun - begun == 3


async def test_what_refused_requests_are_told_to_wait_is_measured_by_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[str, str, float]] = []
    monkeypatch.setattr(
        ReplicaMetrics,
        "refused_with_retry",
        lambda _, asked, code, after_s: told.append((asked.variant, code, after_s)),
    )

    denoiser = FakeDenoiser(step_s=0.01)
    replica = await replica_over(denoiser)
    denoiser.gate.clear()
    long = asyncio.create_task(replica.draw(job(num_inference_steps=1000), PNG))
    await until(lambda: replica._engine.occupied != (0, 0))
    # Alone it would take a twentieth of a second, behind the other ten.
    late = job(deadline_at=time.time() + 5)
    with pytest.raises(DeadlineUnreachable):
        await replica.draw(late, PNG)
    long.cancel()
    drawings = [asyncio.create_task(replica.draw(job(), PNG)) for _ in range(9)]
    await asyncio.wait(drawings, timeout=HANG_S, return_when=asyncio.FIRST_COMPLETED)
    denoiser.gate.set()
    outcomes = await asyncio.gather(*drawings, return_exceptions=True)
    refused = [one for one in outcomes if isinstance(one, Overloaded)]
    assert refused
    (deadline, *overloads) = told
    assert deadline[:2] == ("distilled", "deadline_unreachable")
    assert 0 < deadline[2] < 60
    assert {one[:2] for one in overloads} == {("distilled", "overloaded")}
    assert sorted(one[2] for one in overloads) == sorted(one.retry_after_s for one in refused)


async def test_who_is_refused_is_told_to_come_after_those_refused_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serve.replica.replica.random.random", lambda: 0.0)
    denoiser = FakeDenoiser(step_s=0.01)
    replica = await replica_over(denoiser)
    denoiser.gate.clear()
    asked = job(num_inference_steps=100)  # About a second of work each.
    drawings = [asyncio.create_task(replica.draw(asked, PNG)) for _ in range(9)]
    await until(lambda: sum(drawing.done() for drawing in drawings) >= 6)
    denoiser.gate.set()
    errors = [drawing.exception() for drawing in drawings if drawing.done()]
    for drawing in drawings:
        drawing.cancel()
    await asyncio.gather(*drawings, return_exceptions=True)
    waits_s = [error.retry_after_s for error in errors if isinstance(error, Overloaded)]
    assert waits_s == sorted(waits_s)
    assert waits_s[5] > waits_s[0] + 3


async def test_a_replica_tells_routers_how_much_work_is_ahead() -> None:
    denoiser = FakeDenoiser(step_s=0.01)
    replica = await replica_over(denoiser)
    assert replica.record_routing_stats()["ahead_s"] < 0.1
    assert replica._engine.occupied == (0, 0)
    denoiser.gate.clear()
    drawing = asyncio.create_task(replica.draw(job(num_inference_steps=100), PNG))
    await until(lambda: replica._engine.occupied != (0, 0))
    told = replica.record_routing_stats()
    assert told["ahead_s"] >= 100 * told["image_step_s"] >= 0.9
    denoiser.gate.set()
    await drawing


def flagging(*seeds: int, **changes: object) -> FakeDenoiser:
    """Flags the finished pictures of these seeds."""
    return FakeDenoiser(flags=lambda picture: int(picture[0, 0, 0]) in seeds, **changes)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What was counted as flagged, and how requests ended."""
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(
        ReplicaMetrics, "flagged", lambda _, asked: found.append(("image", asked.variant))
    )
    monkeypatch.setattr(
        ReplicaMetrics,
        "ended",
        lambda _, asked, outcome, seconds: found.append((outcome, asked.variant)),
    )
    return found


async def test_a_flagged_picture_is_left_out_told_and_counted(
    counted: list[tuple[str, str]],
) -> None:
    replica = await replica_over(flagging(2), note="random values", safety_checker=True)
    counted.clear()
    drawing = await replica.draw(job(seeds=(1, 2, 3)), PNG)
    assert [picture is None for picture in drawing.pictures] == [False, True, False]
    assert drawing.warnings == (
        "image 1 (seed 2): flagged by the safety checker, and left out", "random values",
    )  # fmt: skip
    reds = [Image.open(io.BytesIO(one)).getpixel((0, 0))[0] for one in drawing.pictures if one]
    assert reds == [1, 3]
    assert sorted(counted) == [("done", "distilled"), ("image", "distilled")]


@pytest.mark.parametrize("how", ["draw", "stream"])
async def test_a_request_whose_pictures_are_all_flagged_ends_in_an_error(
    how: str, counted: list[tuple[str, str]]
) -> None:
    replica = await replica_over(flagging(1, 2), safety_checker=True)
    counted.clear()
    asked = job(seeds=(1, 2), previews=2)
    stream = replica.stream(asked, PNG)
    draw = replica.draw(asked, PNG) if how == "draw" else anext(stream)
    with pytest.raises(Flagged, match="flagged by the safety checker"):
        await draw
    assert sorted(counted) == [("flagged", "distilled"), *[("image", "distilled")] * 2]


@pytest.mark.parametrize("flagged", [0, 1, 2], ids=["first", "middle", "last"])
async def test_the_last_picture_of_a_stream_tells_which_were_flagged(
    flagged: int, counted: list[tuple[str, str]]
) -> None:
    # One after another, so that each is done long before the next.
    replica = await replica_over(flagging(flagged + 1, step_s=0.01), safety_checker=True)
    counted.clear()
    events = [event async for event in replica.stream(job(seeds=(1, 2, 3)), PNG)]
    assert [event.image for event in events] == [one for one in range(3) if one != flagged]
    assert events[-1].warnings == (  # type: ignore[union-attr]
        f"image {flagged} (seed {flagged + 1}): flagged by the safety checker, and left out",
    )
    assert sorted(counted) == [("done", "distilled"), ("image", "distilled")]


@pytest.mark.parametrize("safety_checker", [False, True])
async def test_only_with_a_safety_checker_a_picture_of_a_stream_waits_for_the_next(
    safety_checker: bool,
) -> None:
    denoiser = FakeDenoiser(step_s=0.05)
    replica = await replica_over(denoiser, safety_checker=safety_checker)
    before = len(denoiser.decodes)
    stream = replica.stream(job(seeds=(1, 2)), PNG)
    assert (await anext(stream)).image == 0
    assert len(denoiser.decodes) - before == (2 if safety_checker else 1)
    assert [event.image async for event in stream] == [1]


async def test_a_replica_that_flags_its_warm_up_is_warm_and_counts_no_picture(
    counted: list[tuple[str, str]],
) -> None:
    replica = await replica_over(flagging(0), safety_checker=True)
    assert ("image", "distilled") not in counted
    drawing = await replica.draw(job(seeds=(1,)), PNG)
    assert drawing.pictures[0] is not None


async def test_a_replica_has_encoded_a_picture_before_it_is_ready() -> None:
    """Else the first edit would pay for what a device sets up, and its forecast leave it out."""
    denoiser = FakeDenoiser()
    await replica_over(denoiser)
    assert denoiser.prepared == 1
