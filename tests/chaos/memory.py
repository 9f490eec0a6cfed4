"""A device that runs out of memory, in this process and without a model: the engine's rule itself.

`tests/gpu` has what a real one does.
"""

import asyncio
import time

from serve.engine.loop import Engine, Settings
from serve.errors import OutOfDeviceMemory
from serve.generation import Generation
from tests.fakes import FakeDenoiser, FakeTrajectory, generation

from .outcome import Check, Found
from .stage import Stage

_JOBS = 60
_STEPS = 10


async def out_of_memory(stage: Stage) -> Found:
    """Room for eight images, then three, then for none, then again: what fits is drawn."""
    denoiser = FakeDenoiser(step_s=0.002)
    engine: Engine[Generation, FakeTrajectory] = Engine(denoiser, Settings(cap=8))
    caps, wrong, lost = [], 0, 0
    try:
        for room in (8, 3):
            denoiser.room = room
            tickets = []
            for seed in range(_JOBS):
                tickets.append(engine.submit(generation(seeds=(seed,), num_inference_steps=_STEPS)))
                await asyncio.sleep(0.001)
            for seed, ticket in enumerate(tickets):
                try:
                    (picture,) = (await asyncio.wait_for(ticket.result(), 30)).images
                except Exception:
                    lost += 1
                else:
                    wrong += picture is None or tuple(picture[0, 0]) != (seed, 0, _STEPS)
            caps.append(engine.cap)
        freed = denoiser.memory_freed
        denoiser.room = 0
        tries_before = denoiser.memory_freed
        told = await _fails(engine)
        tries = denoiser.memory_freed - tries_before
        denoiser.room = 3
        again = await engine.submit(generation(seeds=(7,))).result()
    finally:
        engine.close()
        await engine.wait_closed()
    return Found(
        f"{_JOBS} requests with room for 8 images at once, {_JOBS} with room for 3, one with room "
        "for none, one with room again; a simulated device, without HTTP",
        [
            Check(f"{lost} lost, {wrong} wrong", "0, 0", not lost and not wrong),
            Check(f"slots {caps[0]}, then {caps[1]}", "8, then at most 3",
                  caps[0] == 8 and caps[1] <= 3),
            Check(f"memory given back {freed} times", "at least once", freed > 0),
            Check(f"without any room {told} after {tries} tries", "OutOfDeviceMemory, 2",
                  (told, tries) == ("OutOfDeviceMemory", 2)),
            Check("drawn again once there is room", "drawn", again.images[0] is not None),
        ],
        sent=2 * _JOBS + 2,
        lost=lost + wrong,
    )  # fmt: skip


async def _fails(engine: Engine[Generation, FakeTrajectory]) -> str:
    began_s = time.monotonic()
    try:
        await asyncio.wait_for(engine.submit(generation(seeds=(1,))).result(), 30)
    except OutOfDeviceMemory as fault:
        return type(fault).__name__
    return f"drawn after {time.monotonic() - began_s:.1f} s"
