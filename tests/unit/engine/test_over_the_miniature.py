"""The seed contract over real models: a picture doesn't depend on what shared its calls."""

import asyncio
import time
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serve.catalogue import MINIATURE
from serve.engine.forecast import Pace
from serve.engine.loop import Engine, Settings
from serve.engine.tickets import Preview
from serve.errors import InvalidRequest
from serve.generation import Generation
from serve.miniature import WEIGHTS_DIR
from serve.pipelines.pipeline import Pipeline
from tests.fakes import generation
from tests.machine import HANG_S
from tests.pictures import TOLERANCE, difference, draw


@cache
def pipeline() -> Pipeline:
    """All variants in one, as a packed replica has them."""
    return Pipeline.load(tuple(MINIATURE.variants.values()), WEIGHTS_DIR, "cpu")


@cache
def alone(job: Generation) -> tuple[NDArray[Any], ...]:
    """Each image of a job drawn by itself."""
    return tuple(draw(pipeline(), replace(job, seeds=(seed,)))[0] for seed in job.seeds)


jobs = st.builds(
    generation,
    variant=st.sampled_from(list(MINIATURE.variants)),
    prompt=st.sampled_from(["a red star", "a golden vase with different flowers"]),
    negative_prompt=st.sampled_from(["", "blue"]),
    seeds=st.sampled_from([(1,), (2, 3)]),
    num_inference_steps=st.integers(1, 6),
    guidance_scale=st.sampled_from([1.0, 2.0, 3.0]),
    scheduler=st.sampled_from(["pndm", "ddim", "dpm++", "euler"]),
    width_px=st.sampled_from([64, 96]),
    previews=st.integers(0, 2),
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(jobs, st.integers(0, 8), st.booleans()), min_size=2, max_size=6),
    st.integers(1, 8),
)
def test_every_picture_of_a_mix_is_the_one_made_alone(
    mix: list[tuple[Generation, int, bool]], cap: int
) -> None:
    async def client(
        engine: Engine[Generation, Any], job: Generation, arrives_after: int, leaves: bool
    ) -> None:
        for _ in range(arrives_after):
            await asyncio.sleep(0.02)
        ticket = engine.submit(job)
        if leaves:
            await asyncio.sleep(0.05)
            ticket.cancel()
            return
        previews = [event async for event in ticket.events() if isinstance(event, Preview)]
        assert all(event.pixels.shape == (64, job.width_px, 3) for event in previews)
        for picture, expected in zip((await ticket.result()).images, alone(job), strict=True):
            assert difference(picture, expected) <= TOLERANCE

    async def scenario() -> None:
        engine: Engine[Generation, Any] = Engine(pipeline(), Settings(cap=cap))
        async with asyncio.TaskGroup() as clients:
            for job, arrives_after, leaves in mix:
                clients.create_task(client(engine, job, arrives_after, leaves))
        assert engine.unfinished == 0
        engine.close()
        await engine.wait_closed()

    asyncio.run(scenario())


async def test_a_few_step_request_is_admitted_as_what_it_is() -> None:
    # A step with guidance takes 100 ms; nothing else has been measured.
    engine = Engine(pipeline(), Settings(cap=1), Pace({1: 0.1}))
    guided, few_step = (
        MINIATURE.variants[name].generation("a red star", [1])
        for name in ("distilled", "distilled-lcm")
    )
    try:
        # PNDM makes 26 calls of 25 steps, and LCM's 4 are without guidance.
        assert engine.forecast(guided).finish_s == pytest.approx(2.6)
        assert engine.forecast(few_step).finish_s == pytest.approx(0.2)
        deadline = time.perf_counter() + 1
        engine.require_feasible(few_step, deadline)
        with pytest.raises(InvalidRequest, match=r"even alone this would take about 2\.6 s"):
            engine.require_feasible(guided, deadline)
        assert (await engine.submit(few_step, deadline + HANG_S).result()).images
    finally:
        engine.close()
        await engine.wait_closed()
