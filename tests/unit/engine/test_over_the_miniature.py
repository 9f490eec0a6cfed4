"""The seed contract over real models: a picture doesn't depend on what shared its calls."""

import asyncio
from dataclasses import replace
from functools import cache
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from serve.engine.loop import Engine, Settings
from serve.engine.tickets import Preview
from serve.generation import Generation
from serve.miniature import WEIGHTS_DIR
from serve.pipelines.pipeline import Pipeline
from serve.variants import MINIATURE
from tests.fakes import generation
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
