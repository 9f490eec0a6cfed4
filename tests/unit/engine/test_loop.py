import asyncio
import inspect
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from serve.engine import decoding, loop
from serve.engine.forecast import Pace
from serve.engine.loop import Engine, Settings
from serve.engine.slots import Policy
from serve.engine.tickets import Finished, Preview, Ticket
from serve.errors import (
    DeadlineExceeded,
    DeadlineUnreachable,
    EngineClosed,
    Flagged,
    InvalidRequest,
    NotFinite,
    OutOfDeviceMemory,
)
from serve.generation import Generation
from tests.fakes import FakeDenoiser, FakeTrajectory, generation
from tests.machine import HANG_S, until

FakeEngine = Engine[Generation, FakeTrajectory]


def play(
    denoiser: Callable[..., FakeDenoiser] = FakeDenoiser, pace: Pace | None = None, **options: Any
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., None]]:
    """Run a test, which may take `engine` and `denoiser`, against an engine of its own.

    Options are those of `Settings` and of the denoiser.
    """
    names = {field.name for field in fields(Settings)}
    settings = Settings(**{name: options.pop(name) for name in names & set(options)})

    def decorate(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
        parameters = inspect.signature(test).parameters

        async def whole(cases: dict[str, object]) -> None:
            fake = denoiser(**options)
            engine: FakeEngine = Engine(fake, settings, pace)
            try:
                async with asyncio.timeout(HANG_S):
                    given = {"engine": engine, "denoiser": fake, **cases}
                    await test(**{name: given[name] for name in parameters})
            finally:
                engine.close()
                fake.gate.set()
                fake.decode_gate.set()
                fake.prepare_gate.set()
                await engine.wait_closed()
            assert engine.unfinished == 0

        def played(**cases: object) -> None:
            asyncio.run(whole(cases))

        # What is left for pytest to fill in.
        played.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [parameters[name] for name in parameters if name not in ("engine", "denoiser")]
        )
        return played

    return decorate


async def submitted_together(
    engine: FakeEngine, denoiser: FakeDenoiser, *jobs: Generation
) -> list[Ticket]:
    """Submit jobs so that all wait when the first is begun: a blocker holds the device."""
    denoiser.gate.clear()
    blocker = engine.submit(generation(num_inference_steps=1, variant="blocker"))
    await until(lambda: engine.call_age_s > 0)
    tickets = [engine.submit(job) for job in jobs]
    denoiser.gate.set()
    await blocker.result()
    return tickets


@play(cap=4)
async def test_steps_come_from_one_thread_and_pictures_from_another(engine, denoiser):
    jobs = [generation(seeds=(seed, seed + 1), previews=1) for seed in range(4)]
    await asyncio.gather(*(engine.submit(job).result() for job in jobs))
    assert denoiser.threads.pop("begin") == denoiser.threads.pop("step") == {"denoise"}
    assert set().union(*denoiser.threads.values()) == {"decode"}


@play(cap=8)
async def test_what_differs_in_steps_prompt_and_scheduler_shares_a_call(engine, denoiser):
    tickets = await submitted_together(
        engine,
        denoiser,
        generation(num_inference_steps=2, guidance_scale=4.0),
        generation(num_inference_steps=3, guidance_scale=9.0, scheduler="euler"),
        generation(num_inference_steps=3, prompt="another", negative_prompt="dark"),
    )
    await asyncio.gather(*(ticket.result() for ticket in tickets))
    assert [len(call) for call in denoiser.calls[1:]] == [3, 3, 2]


@play(step_s=0.002, cap=2)
async def test_an_image_joins_at_a_step_and_leaves_when_it_is_done(engine, denoiser):
    denoiser.gate.clear()
    long = engine.submit(generation(seeds=(1,), num_inference_steps=50))
    await until(lambda: engine.call_age_s > 0)
    short = engine.submit(generation(seeds=(2,), num_inference_steps=3))
    denoiser.gate.set()
    await short.result()
    assert not long.ended
    await long.result()
    assert [len(call) for call in denoiser.calls] == [1, 2, 2, 2] + [1] * 46


@play(step_s=0.05, cap=1)
async def test_an_image_is_handed_over_while_the_others_of_its_request_go_on(engine, denoiser):
    events = engine.submit(generation(seeds=(1, 2), num_inference_steps=4)).events()
    finished_at: dict[int, int] = {}
    async for event in events:
        if isinstance(event, Finished):
            finished_at[event.image] = denoiser.steps
    assert finished_at[0] < 8
    assert finished_at[1] == 8


@play(cap=1)
async def test_a_slow_picture_does_not_hold_up_the_steps_of_others(engine, denoiser):
    denoiser.decode_gate.clear()
    first = engine.submit(generation(num_inference_steps=1))
    second = engine.submit(generation(num_inference_steps=20))
    await until(lambda: denoiser.steps == 21)
    assert not first.ended
    denoiser.decode_gate.set()
    await asyncio.gather(first.result(), second.result())


@play(slice_most=3, cap=7)
async def test_finished_images_are_decoded_in_slices(engine, denoiser):
    result = await engine.submit(generation(seeds=tuple(range(7)))).result()
    assert [int(image[0, 0, 0]) for image in result.images] == list(range(7))
    assert denoiser.decodes == [3, 3, 1]


@play()
async def test_the_event_loop_is_free_while_a_step_lasts(engine, denoiser):
    denoiser.gate.clear()
    ticket = engine.submit(generation())
    await until(lambda: engine.call_age_s > 0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert denoiser.steps == 0
    denoiser.gate.set()
    await ticket.result()


@play()
async def test_a_cancelled_request_frees_its_slot_within_one_step(engine, denoiser):
    denoiser.gate.clear()
    ticket = engine.submit(generation(num_inference_steps=150))
    waiter = asyncio.create_task(ticket.result())
    await until(lambda: engine.call_age_s > 0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    denoiser.gate.set()
    await engine.submit(generation(num_inference_steps=1)).result()
    assert denoiser.steps == 2  # The step under way when it was cancelled, and the next job's.


@play(step_s=0.005, cap=2)
async def test_a_cancelled_image_leaves_its_slot_to_the_next_and_its_neighbours_go_on(
    engine, denoiser
):
    stays, leaves, waits = await submitted_together(
        engine,
        denoiser,
        *(generation(seeds=(seed,), num_inference_steps=60) for seed in (1, 2, 3)),
    )
    await until(lambda: len(denoiser.calls) > 3)
    denoiser.gate.clear()
    await until(lambda: engine.call_age_s > 0.1)  # Held at the gate, not in its own 5 ms.
    leaves.cancel()
    before = len(denoiser.calls)
    denoiser.gate.set()
    await until(lambda: len(denoiser.calls) > before + 2)
    assert {image.seed for image in denoiser.calls[before + 1]} == {1, 3}
    assert int((await stays.result()).images[0][0, 0, 2]) == 60
    waits.cancel()


@play()
async def test_a_request_cancelled_in_the_queue_is_never_begun(engine, denoiser):
    denoiser.gate.clear()
    first = engine.submit(generation(num_inference_steps=1))
    second = engine.submit(generation(num_inference_steps=100))
    second.cancel()
    denoiser.gate.set()
    await first.result()
    with pytest.raises(asyncio.CancelledError):
        await second.result()
    await engine.submit(generation(num_inference_steps=1)).result()
    assert (denoiser.begun, denoiser.steps) == (2, 2)


@play()
async def test_a_request_cancelled_before_its_picture_is_not_decoded(engine, denoiser):
    denoiser.decode_gate.clear()
    first = engine.submit(generation(num_inference_steps=1))
    second = engine.submit(generation(num_inference_steps=1))
    await until(lambda: denoiser.steps == 2)
    second.cancel()
    denoiser.decode_gate.set()
    await first.result()
    await engine.submit(generation(num_inference_steps=1)).result()
    assert len(denoiser.decodes) == 2


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        pytest.param("poison", ValueError, id="in-begin"),
        pytest.param("poisoned step", ValueError, id="in-a-step"),
        pytest.param("poisoned latents", NotFinite, id="in-its-picture"),
    ],
)
@play(slice_most=6, cap=6)
async def test_a_failing_request_leaves_its_neighbours_alone(engine, denoiser, prompt, error):
    before, bad, after = await submitted_together(
        engine,
        denoiser,
        generation(seeds=(1, 2)),
        generation(prompt=prompt, seeds=(3, 4)),
        generation(seeds=(5, 6)),
    )
    with pytest.raises(error):
        await bad.result()
    for ticket, seeds in ((before, [1, 2]), (after, [5, 6])):
        images = (await ticket.result()).images
        assert [(int(image[0, 0, 0]), int(image[0, 0, 2])) for image in images] == [
            (seed, 5) for seed in seeds
        ]
    assert engine.alive
    assert engine.faults_in_a_row <= 1


@play(room=3, cap=8)
async def test_without_memory_the_slots_are_halved_and_nothing_is_lost(engine, denoiser):
    jobs = [generation(seeds=(seed,)) for seed in range(8)]
    tickets = await submitted_together(engine, denoiser, *jobs)
    results = await asyncio.gather(*(ticket.result() for ticket in tickets))
    assert [int(result.images[0][0, 0, 0]) for result in results] == list(range(8))
    assert engine.cap == 2
    assert denoiser.memory_freed == 2
    assert max(len(call) for call in denoiser.calls) == 2


class FailsHalfWay(FakeDenoiser):
    """Advances the first image of the first call of several that is to end it, then fails."""

    fault: Exception = OutOfDeviceMemory("no room")
    failed = False

    def step(self, trajectories: list[FakeTrajectory]) -> None:
        last = trajectories[0].steps_done == trajectories[0].total_steps - 1
        if len(trajectories) > 1 and last and not self.failed:
            self.failed = True
            trajectories[0].steps_done += 1
            raise self.fault
        super().step(trajectories)


@pytest.mark.parametrize(
    "fault", [OutOfDeviceMemory("no room"), ValueError("a bad step")], ids=["memory", "other"]
)
@play(FailsHalfWay, cap=4)
async def test_an_image_that_a_failed_call_has_advanced_is_not_stepped_again(
    engine, denoiser, fault
):
    denoiser.fault = fault
    jobs = [generation(seeds=(seed,)) for seed in (1, 2, 3)]
    tickets = await submitted_together(engine, denoiser, *jobs)
    results = await asyncio.gather(*(ticket.result() for ticket in tickets))
    assert denoiser.failed
    assert [int(result.images[0][0, 0, 0]) for result in results] == [1, 2, 3]
    assert {int(result.images[0][0, 0, 2]) for result in results} == {5}


@play(decode_room=3, slice_most=8, cap=8)
async def test_once_there_is_memory_again_the_slots_and_slices_grow_back(
    engine, denoiser, monkeypatch
):
    job = generation(seeds=tuple(range(8)), num_inference_steps=12)
    await engine.submit(job).result()
    denoiser.room = 3
    await engine.submit(job).result()
    assert engine.cap == max(denoiser.decodes) == 2
    denoiser.room = denoiser.decode_room = 8
    hour_later = time.perf_counter() + 3600
    for module in (loop, decoding):
        clock = itertools.count(hour_later, 3600)
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda c=clock: next(c)))
    for _ in range(8):
        await engine.submit(job).result()
    assert engine.cap == 8
    assert len(denoiser.calls[-1]) == max(denoiser.decodes) == 8


@play(room=0, cap=4)
async def test_an_image_that_finds_no_room_alone_fails_and_says_why(engine, denoiser):
    with pytest.raises(OutOfDeviceMemory):
        await engine.submit(generation()).result()
    denoiser.room = 1
    await engine.submit(generation()).result()


@play(slice_most=6, decode_room=1, cap=6)
async def test_a_picture_without_memory_is_decoded_in_smaller_slices(engine, denoiser):
    result = await engine.submit(generation(seeds=tuple(range(6)))).result()
    assert [int(image[0, 0, 0]) for image in result.images] == list(range(6))
    assert max(denoiser.decodes) == 1
    denoiser.decode_room = 0
    with pytest.raises(OutOfDeviceMemory):
        await engine.submit(generation()).result()


@play(cap=2)
async def test_a_late_reader_misses_no_picture(engine):
    ticket = engine.submit(generation(seeds=(1, 2)))
    await ticket.result()
    assert [event.image async for event in ticket.events()] == [0, 1]


@play()
async def test_events_of_a_cancelled_request_end(engine, denoiser):
    async def collect(ticket: Ticket) -> list[object]:
        return [event async for event in ticket.events()]

    denoiser.gate.clear()
    ticket = engine.submit(generation())
    reader = asyncio.create_task(collect(ticket))
    await asyncio.sleep(0.01)
    ticket.cancel()
    async with asyncio.timeout(HANG_S):
        assert await reader == []


class AwaitsPreviews(FakeDenoiser):
    """Begins no step before the previews of the steps before, so that none is skipped."""

    shown_at = 2, 4, 6

    def step(self, trajectories: list[FakeTrajectory]) -> None:
        due = sum(step <= image.steps_done for image in trajectories for step in self.shown_at)
        deadline = time.monotonic() + HANG_S
        while self.previews < due:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        super().step(trajectories)


@play(AwaitsPreviews, cap=2)
async def test_a_request_with_the_device_to_itself_shows_all_its_previews(engine):
    ticket = engine.submit(generation(seeds=(1, 2), num_inference_steps=8, previews=3))
    events = [event async for event in ticket.events() if isinstance(event, Preview)]
    assert {(event.image, event.step) for event in events} == {
        (image, step) for image in (0, 1) for step in (2, 4, 6)
    }


@play(step_s=0.01, preview_s=0.01, cap=2)
async def test_previews_cost_other_requests_at_most_a_twentieth(engine, denoiser):
    started_at = time.perf_counter()
    shown = [engine.submit(generation(num_inference_steps=60, previews=59)) for _ in range(2)]
    await asyncio.gather(*(ticket.result() for ticket in shown))
    lasted_s = time.perf_counter() - started_at
    # The first is on credit.
    assert 1 <= denoiser.previews <= 1 + 0.05 * lasted_s / denoiser.preview_s


@play(pace=Pace({1: 0.1}), cap=1)
async def test_a_forecast_counts_the_work_ahead_and_queues_nothing(engine, denoiser):
    job = generation(num_inference_steps=10)
    assert engine.forecast(job).finish_s == pytest.approx(1.0)
    denoiser.gate.clear()
    ahead = engine.submit(generation(num_inference_steps=100))
    assert engine.forecast(job).finish_s == pytest.approx(11.0)
    assert sum(engine.occupied) == 1
    ahead.cancel()
    denoiser.gate.set()


@play(pace=Pace({1: 1.0}))
async def test_a_deadline_that_the_queue_makes_unreachable_is_refused_at_once(engine, denoiser):
    denoiser.gate.clear()
    ahead = [engine.submit(generation(num_inference_steps=100)) for _ in range(2)]
    with pytest.raises(DeadlineUnreachable, match=r"deadline_s: .* 2 image\(s\) ahead") as fault:
        engine.submit(generation(num_inference_steps=10), time.perf_counter() + 50)
    # 210 steps of a second each, and 50 s to spare.
    assert fault.value.retry_after_s == pytest.approx(160, abs=20)
    assert engine.unfinished == 2
    # Where waiting doesn't help, nobody is told to come back.
    with pytest.raises(InvalidRequest, match="deadline_s: even alone this would take about 10"):
        engine.require_feasible(generation(num_inference_steps=10), time.perf_counter() + 5)
    engine.submit(generation(num_inference_steps=10), time.perf_counter() + 230).cancel()
    for ticket in ahead:
        ticket.cancel()


@play()
async def test_nothing_is_refused_for_want_of_a_measurement(engine):
    assert await engine.submit(generation(), time.perf_counter() + HANG_S).result()


@play(step_s=0.02, cap=2)
async def test_work_that_gets_late_is_dropped_at_the_next_step(engine, denoiser):
    late = engine.submit(generation(num_inference_steps=150), time.perf_counter() + 0.1)
    beside = engine.submit(generation(num_inference_steps=12))
    with pytest.raises(DeadlineExceeded):
        await late.result()
    await beside.result()
    assert denoiser.steps < 30


@play(pace=Pace({1: 1.0}))
async def test_work_that_would_be_late_in_the_best_case_is_dropped_before_its_deadline(
    engine, denoiser
):
    denoiser.gate.clear()
    blocker = engine.submit(generation(num_inference_steps=1))
    await until(lambda: engine.call_age_s > 0)
    # 20 steps of at least a second fit; then the blocker's step outlasts what is left.
    deadline = time.perf_counter() + 21.5
    hopeless = engine.submit(generation(num_inference_steps=20), deadline)
    await asyncio.sleep(2)
    denoiser.gate.set()
    with pytest.raises(DeadlineExceeded, match="out of reach"):
        await hopeless.result()
    assert time.perf_counter() < deadline
    await blocker.result()
    assert denoiser.begun == 1


@play()
async def test_a_picture_that_comes_too_late_is_not_decoded(engine, denoiser):
    denoiser.decode_gate.clear()
    first = engine.submit(generation(num_inference_steps=1))
    deadline = time.perf_counter() + 3
    late = engine.submit(generation(num_inference_steps=1), deadline)
    await until(lambda: denoiser.steps == 2)
    await until(lambda: time.perf_counter() > deadline)
    denoiser.decode_gate.set()
    with pytest.raises(DeadlineExceeded, match="last picture"):
        await late.result()
    await first.result()


@pytest.mark.parametrize(
    ("policy", "calls"),
    [("step", [2, 2, 2, 2]), ("batch", [2, 2, 1, 1, 1, 1])],
)
def test_images_join_as_the_policy_allows(policy: Policy, calls: list[int]) -> None:
    @play(policy=policy, cap=2)
    async def requests(engine, denoiser):
        jobs = [generation(num_inference_steps=steps) for steps in (2, 4, 2)]
        tickets = await submitted_together(engine, denoiser, *jobs)
        await asyncio.gather(*(ticket.result() for ticket in tickets))
        assert [len(call) for call in denoiser.calls[1:]] == calls

    requests()


@play()
async def test_closing_ends_unfinished_requests_and_refuses_new_ones(engine, denoiser):
    denoiser.gate.clear()
    running, waiting = engine.submit(generation()), engine.submit(generation())
    await until(lambda: engine.call_age_s > 0)
    engine.close()
    denoiser.gate.set()
    await engine.wait_closed()
    for ticket in (running, waiting):
        with pytest.raises(EngineClosed):
            await ticket.result()
    with pytest.raises(EngineClosed):
        engine.submit(generation())
    assert not engine.alive
    assert denoiser.steps == 1


@play(step_s=0.01, decode_s=0.02)
async def test_times_add_up_to_the_wait(engine):
    first = engine.submit(generation(num_inference_steps=10))
    second = engine.submit(generation(num_inference_steps=10))
    await first.result()
    (finished,) = [event async for event in second.events()]
    assert finished.denoise_s >= 0.1
    assert finished.queue_s >= 0.1
    assert finished.decode_s >= 0.02
    times_s = finished.queue_s + finished.denoise_s + finished.decode_s
    assert times_s <= (await second.result()).seconds + 1e-6  # Sums round differently.


def of_seeds(*seeds: int) -> Callable[[NDArray[np.uint8]], bool]:
    """Flags the pictures of these seeds, finished or not."""
    return lambda picture: int(picture[0, 0, 0]) in seeds


@pytest.mark.parametrize("slice_most", [1, 4])
@play(flags=of_seeds(2, 4), cap=4)
async def test_a_flagged_picture_goes_no_further_and_the_others_do(engine, denoiser, slice_most):
    denoiser.slice_most = slice_most
    ticket = engine.submit(generation(seeds=(1, 2, 3, 4)))
    finished = {
        event.image: event.pixels async for event in ticket.events() if isinstance(event, Finished)
    }
    result = await ticket.result()
    for pixels in (list(finished.values()), result.images):
        assert [image is None for image in pixels] == [False, True, False, True]
        assert [int(image[0, 0, 0]) for image in pixels if image is not None] == [1, 3]
    assert ticket.flagged == [1, 3]
    assert denoiser.threads["flagged"] == {"decode"}


@play(flags=of_seeds(1, 2), cap=2)
async def test_failures_are_counted_until_a_job_is_drawn_even_if_all_of_it_is_flagged(engine):
    for count in (1, 2):
        with pytest.raises(ValueError, match="a bad prompt"):
            await engine.submit(generation(prompt="poison")).result()
        assert engine.faults_in_a_row == count
    with pytest.raises(Flagged):
        await engine.submit(generation(seeds=(1, 2))).result()
    # The device works.
    await until(lambda: engine.faults_in_a_row == 0)
    assert (await engine.submit(generation(seeds=(3,))).result()).images[0] is not None


# The third channel tells the steps.
@play(step_s=0.02, flags=lambda picture: int(picture[0, 0, 2]) == 4)
async def test_a_flagged_preview_is_dropped_and_the_picture_judged_by_itself(engine, denoiser):
    ticket = engine.submit(generation(num_inference_steps=8, previews=3))
    events = [event async for event in ticket.events()]
    steps = [event.step for event in events if isinstance(event, Preview)]
    assert steps == [2, 6]
    assert denoiser.previews == 3
    assert (await ticket.result()).images[0] is not None


def broken(picture: NDArray[np.uint8]) -> bool:
    raise ValueError("a bad checker")


@pytest.mark.parametrize("previews", [0, 1])
@play(step_s=0.01, flags=broken)
async def test_a_picture_that_could_not_be_checked_is_not_shown(engine, previews):
    ticket = engine.submit(generation(previews=previews))
    events = [event async for event in ticket.events()]
    assert not [event for event in events if isinstance(event, Preview | Finished)]
    with pytest.raises(ValueError, match="a bad checker"):
        await ticket.result()


class SmallChecker(FakeDenoiser):
    def flagged(self, pixels: NDArray[np.uint8]) -> list[bool]:
        if len(pixels) > 2:
            raise OutOfDeviceMemory("no room")
        return super().flagged(pixels)


@play(SmallChecker, flags=of_seeds(2), slice_most=4, cap=4)
async def test_a_check_without_memory_is_repeated_with_fewer(engine, denoiser):
    result = await engine.submit(generation(seeds=(1, 2, 3, 4))).result()
    assert [picture is None for picture in result.images] == [False, True, False, False]
    assert denoiser.decodes == [4, 2, 2]
    assert denoiser.memory_freed == 1
