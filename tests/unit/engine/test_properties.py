"""Whatever comes in whatever order: every picture is right, nothing is lost or answered twice."""

import asyncio
from dataclasses import dataclass

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve.engine.loop import Engine, Settings
from serve.engine.slots import Policy
from serve.engine.tickets import Finished, Ticket
from serve.errors import NotFinite
from serve.generation import Generation
from tests.fakes import FakeDenoiser, FakeTrajectory, generation
from tests.machine import HANG_S, until

_FAULTS = {"poison": ValueError, "poisoned step": ValueError, "poisoned latents": NotFinite}


@dataclass(frozen=True)
class Client:
    """Submits a job after so many steps of the device, and may leave after some more."""

    job: Generation
    arrives_after: int
    leaves_after: int | None


clients = st.builds(
    Client,
    job=st.builds(
        generation,
        prompt=st.sampled_from(["fine"] * 8 + list(_FAULTS)),
        seeds=st.lists(st.integers(0, 65535), min_size=1, max_size=4).map(tuple),
        num_inference_steps=st.integers(1, 8),
        width_px=st.sampled_from([8, 16]),
        guidance_scale=st.sampled_from([1.0, 4.0]),
        previews=st.integers(0, 3),
    ),
    arrives_after=st.integers(0, 6),
    leaves_after=st.none() | st.none() | st.integers(0, 12),
)


async def behave(client: Client, engine: Engine[Generation, FakeTrajectory]) -> Ticket:
    for _ in range(client.arrives_after):
        await asyncio.sleep(0.0005)
    ticket = engine.submit(client.job)
    if client.leaves_after is not None:
        for _ in range(client.leaves_after):
            await asyncio.sleep(0.0002)
        ticket.cancel()
    return ticket


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(clients, min_size=1, max_size=10),
    st.sampled_from(["step", "batch"]),
    st.integers(1, 8),
    st.integers(1, 8),
    st.integers(1, 4),
)
def test_every_mix_of_requests_ends_as_each_would_alone(
    mix: list[Client], policy: Policy, cap: int, room: int, slice_most: int
) -> None:
    denoiser = FakeDenoiser(room=room, decode_room=room, slice_most=slice_most)

    async def scenario() -> None:
        engine = Engine(denoiser, Settings(policy, cap))
        async with asyncio.timeout(HANG_S):
            tickets = await asyncio.gather(*(behave(client, engine) for client in mix))
            for client, ticket in zip(mix, tickets, strict=True):
                await check(client, ticket)
        assert engine.unfinished == 0
        assert engine.alive
        await until(lambda: engine.occupied == (0, 0))
        engine.close()
        await engine.wait_closed()

    async def check(client: Client, ticket: Ticket) -> None:
        job = client.job
        handed_over = [event async for event in ticket.events() if isinstance(event, Finished)]
        assert len({event.image for event in handed_over}) == len(handed_over)
        expected = [(seed % 256, seed // 256, job.num_inference_steps) for seed in job.seeds]
        for event in handed_over:
            assert tuple(event.pixels[0, 0]) == expected[event.image]
        try:
            result = await ticket.result()
        except asyncio.CancelledError:
            assert client.leaves_after is not None
        except (ValueError, NotFinite) as fault:
            assert isinstance(fault, _FAULTS[job.prompt])
        else:
            assert job.prompt not in _FAULTS
            assert [tuple(image[0, 0]) for image in result.images] == expected

    asyncio.run(scenario())
    assert all(1 <= len(call) <= cap for call in denoiser.calls)
