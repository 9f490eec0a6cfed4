import asyncio
from collections.abc import Callable

import pytest

from serve.engine import Engine, Progress
from serve.errors import EngineClosed
from tests.fakes import FakeDenoiser, generation


async def until(condition: Callable[[], bool], deadline_s: float = 5.0) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.002)


def test_images_come_in_the_order_of_the_seeds() -> None:
    async def scenario() -> None:
        engine = Engine(FakeDenoiser())
        result = await engine.submit(generation(seeds=(3, 1, 2))).result()
        assert [int(image[0, 0, 0]) for image in result.images] == [3, 1, 2]
        engine.close()

    asyncio.run(scenario())


def test_every_call_into_the_denoiser_comes_from_one_thread() -> None:
    async def scenario() -> None:
        denoiser = FakeDenoiser()
        engine = Engine(denoiser)
        tickets = [engine.submit(generation(seeds=(seed, seed + 1))) for seed in range(4)]
        await asyncio.gather(*(ticket.result() for ticket in tickets))
        assert denoiser.threads == {"denoise"}
        engine.close()

    asyncio.run(scenario())


def test_requests_are_served_in_order() -> None:
    async def scenario() -> None:
        denoiser = FakeDenoiser()
        denoiser.gate.clear()
        engine = Engine(denoiser)
        finished: list[int] = []

        async def wait(seed: int) -> None:
            await engine.submit(generation(seeds=(seed,))).result()
            finished.append(seed)

        async with asyncio.TaskGroup() as group:
            for seed in range(6):
                group.create_task(wait(seed))
            await asyncio.sleep(0)
            denoiser.gate.set()
        assert finished == list(range(6))
        engine.close()

    asyncio.run(scenario())


def test_the_event_loop_is_free_while_a_step_lasts() -> None:
    async def scenario() -> None:
        denoiser = FakeDenoiser()
        denoiser.gate.clear()
        engine = Engine(denoiser)
        ticket = engine.submit(generation())
        await until(lambda: engine.call_age_s > 0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert denoiser.steps == 0
        denoiser.gate.set()
        await ticket.result()
        engine.close()

    asyncio.run(scenario())


def test_a_cancelled_request_stops_at_the_next_step() -> None:
    async def scenario() -> None:
        denoiser = FakeDenoiser()
        denoiser.gate.clear()
        engine = Engine(denoiser)
        ticket = engine.submit(generation(num_inference_steps=150))
        waiter = asyncio.create_task(ticket.result())
        await until(lambda: engine.call_age_s > 0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        denoiser.gate.set()
        await engine.submit(generation(num_inference_steps=1)).result()
        assert denoiser.steps == 2  # The step under way when it was cancelled, and the next job's.
        engine.close()

    asyncio.run(scenario())


def test_a_request_cancelled_in_the_queue_is_never_begun() -> None:
    async def scenario() -> None:
        denoiser = FakeDenoiser()
        denoiser.gate.clear()
        engine = Engine(denoiser)
        first = engine.submit(generation(num_inference_steps=1))
        second = engine.submit(generation(num_inference_steps=100))
        second.cancel()
        denoiser.gate.set()
        await first.result()
        with pytest.raises(asyncio.CancelledError):
            await second.result()
        await engine.submit(generation(num_inference_steps=1)).result()
        assert (denoiser.begun, denoiser.steps) == (2, 2)
        engine.close()

    asyncio.run(scenario())


def test_a_failing_request_leaves_its_neighbours_alone() -> None:
    async def scenario() -> None:
        engine = Engine(FakeDenoiser(fail_on="poison"))
        before, bad, after = (
            engine.submit(generation(prompt=prompt)) for prompt in ("one", "poison", "two")
        )
        with pytest.raises(ValueError, match="a bad prompt"):
            await bad.result()
        assert len((await before.result()).images) == 1
        assert len((await after.result()).images) == 1
        assert engine.alive
        engine.close()

    asyncio.run(scenario())


def test_progress_ends_at_the_last_step() -> None:
    async def scenario() -> None:
        engine = Engine(FakeDenoiser(step_s=0.005))
        ticket = engine.submit(generation(num_inference_steps=8))
        seen = [progress async for progress in ticket.progress()]
        assert seen[-1] == Progress(8, 8)
        steps = [progress.step for progress in seen]
        assert steps == sorted(set(steps))
        assert len(seen) > 3
        engine.close()

    asyncio.run(scenario())


def test_progress_of_a_cancelled_request_ends() -> None:
    async def scenario() -> None:
        denoiser = FakeDenoiser()
        denoiser.gate.clear()
        engine = Engine(denoiser)
        ticket = engine.submit(generation())
        reader = asyncio.create_task(_collect(ticket.progress()))
        await asyncio.sleep(0.01)
        ticket.cancel()
        async with asyncio.timeout(2):
            assert await reader == []
        denoiser.gate.set()
        engine.close()

    async def _collect(progress: object) -> list[Progress]:
        return [one async for one in progress]  # type: ignore[attr-defined]

    asyncio.run(scenario())


def test_closing_ends_unfinished_requests_and_refuses_new_ones() -> None:
    async def scenario() -> None:
        denoiser = FakeDenoiser()
        denoiser.gate.clear()
        engine = Engine(denoiser)
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

    asyncio.run(scenario())


def test_times_add_up_to_the_wait() -> None:
    async def scenario() -> None:
        engine = Engine(FakeDenoiser(step_s=0.01))
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        first = engine.submit(generation(num_inference_steps=10))
        second = engine.submit(generation(num_inference_steps=10))
        await first.result()
        result = await second.result()
        elapsed_s = loop.time() - started_at
        assert result.denoise_s >= 0.1
        assert result.queue_s >= 0.1
        assert result.queue_s + result.denoise_s + result.decode_s <= elapsed_s
        engine.close()

    asyncio.run(scenario())
