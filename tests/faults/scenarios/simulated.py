"""What no machine does on request, in this process and without a model: memory and the clock.

`tests/gpu` has what a real device without memory does.
"""

import asyncio
import time
from unittest import mock

from serve.catalogue import MINIATURE
from serve.engine.loop import Engine, Settings
from serve.generation import Generation, PictureFormat
from serve.replica.options import ReplicaOptions
from serve.replica.replica import VariantReplica
from tests.fakes import FakeDenoiser, FakeTrajectory, generation

from ..outcome import Check, Found, none
from ..stage import Service, Stage

_JOBS = 60
_STEPS = 10
_JUMPS_S = (3600.0, -7200.0, 3600.0)


async def out_of_memory(stage: Stage[Service]) -> Found:
    """A simulated device has room for 8 images, then 3, none, and 3 again: what fits is drawn."""
    denoiser = FakeDenoiser(step_s=0.002)
    engine: Engine[Generation, FakeTrajectory] = Engine(denoiser, Settings(cap=8))
    slots, wrong, lost = [], 0, 0
    try:
        for room in (8, 3):
            denoiser.room = room
            tickets = []
            for seed in range(_JOBS):
                tickets.append(engine.submit(generation(seeds=(seed,), num_inference_steps=_STEPS)))
                await asyncio.sleep(0.001)
            answers = await asyncio.gather(
                *(asyncio.wait_for(ticket.result(), 30) for ticket in tickets),
                return_exceptions=True,
            )
            for seed, answer in enumerate(answers):
                if isinstance(answer, BaseException):
                    lost += 1
                else:
                    picture = answer.images[0]
                    wrong += picture is None or tuple(picture[0, 0]) != (seed, 0, _STEPS)
            slots.append(engine.cap)
        freed = denoiser.memory_freed
        denoiser.room = 0
        (error,) = await asyncio.gather(
            asyncio.wait_for(engine.submit(generation(seeds=(1,))).result(), 30),
            return_exceptions=True,
        )
        refused = type(error).__name__, denoiser.memory_freed - freed
        denoiser.room = 3
        again = await engine.submit(generation(seeds=(7,))).result()
    finally:
        engine.close()
        await engine.wait_closed()
    expected = ("OutOfDeviceMemory", 2)
    return Found(
        [
            none("lost", lost),
            none("wrong", wrong),
            Check(f"slots {slots}", "8, then at most 3", slots[0] == 8 and slots[1] <= 3),
            Check(f"memory given back {freed} times", "at least once", freed > 0),
            Check(f"error and tries without room {refused}", f"{expected}", refused == expected),
            Check("drawn again once there is room", "drawn", again.images[0] is not None),
        ],
        sent=2 * _JOBS + 2,
        lost=lost + wrong,
    )


async def clock_jumps(stage: Stage[Service]) -> Found:
    """The time of day jumps by +1 h, -2 h, +1 h while a replica draws on a simulated device."""
    absurd, lost, sent, now = 0, 0, 0, time.time
    variant = MINIATURE.variants["distilled"]
    options = ReplicaOptions(slots=4, stuck_after_s=5)
    replica = VariantReplica.__new__(VariantReplica)
    await VariantReplica.__init__(
        replica, [variant], lambda _: FakeDenoiser(step_s=0.01), options, {variant.name: None}
    )
    try:
        for jump_s in _JUMPS_S:
            jobs = [
                generation(
                    variant=variant.name,
                    seeds=(seed,),
                    num_inference_steps=50,
                    deadline_at=time.time() + 30 if seed % 2 else None,
                )
                for seed in range(8)
            ]
            drawing = asyncio.gather(
                *(replica.draw(job, PictureFormat("png", 90)) for job in jobs),
                return_exceptions=True,
            )
            sent += len(jobs)
            await asyncio.sleep(0.1)
            with mock.patch.object(time, "time", lambda jump_s=jump_s: now() + jump_s):
                replica.check_health()
                absurd += not 0 <= replica.record_routing_stats()["ahead_s"] < 60
                lost += sum(isinstance(answer, BaseException) for answer in await drawing)
    finally:
        replica.__del__()
    return Found(
        [none("lost", lost), none("absurd forecasts of the work ahead", absurd)],
        sent=sent,
        lost=lost,
    )
