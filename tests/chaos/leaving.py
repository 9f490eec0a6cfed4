"""Clients that leave in the middle: the device is free, and their neighbours see nothing of it."""

import asyncio
import random

import aiohttp

from .load import Body
from .metrics import scrape
from .outcome import Check, Found, none_lost
from .service import VARIANTS
from .stage import Stage, now_s

_SHARE = 0.2
# So many at once, and so long after one another, that all are admitted.
_A_WAVE = 12
_STEPS = 60
_LEAVE_AFTER_S = 0.3, 0.8
# Ray exports metrics every few seconds.
_EXPORTED_S = 30.0
# What leaves on its way from router to replica is never counted there.
_COUNTED = 0.8


async def clients_leave(stage: Stage) -> Found:
    """Waves of clients that ask for long work, and close their connections on the way."""
    clients = 48 if stage.quick else 200
    before = await asyncio.to_thread(scrape)
    short_s = max([await _draw_s(stage, variant, 2) for variant in VARIANTS])
    long_s = min([await _draw_s(stage, variant, _STEPS) for variant in VARIANTS])
    freed_s, admitted = [], 0
    async with stage.load(_SHARE, seed=6) as neighbours, aiohttp.ClientSession() as session:
        for began in range(0, clients, _A_WAVE):
            wave = range(began, min(began + _A_WAVE, clients))
            left = await asyncio.gather(*(_leave(session, stage, number) for number in wave))
            admitted += sum(left)
            freed_s.append(await _draw_s(stage, VARIANTS[began // _A_WAVE % len(VARIANTS)], 2))
    idle = await stage.within(lambda: scrape().idle, _EXPORTED_S)

    def cancelled() -> float:
        return scrape().ended("cancelled") - before.ended("cancelled")

    await stage.within(lambda: cancelled() >= _COUNTED * admitted, _EXPORTED_S)
    counted = await asyncio.to_thread(cancelled)
    bound_s = short_s + long_s / 2
    return Found(
        f"{clients} clients asked for {_STEPS} steps and left: {_A_WAVE} at a time, half of them "
        f"after a stream's first preview, the others after {_LEAVE_AFTER_S[0]:g} to "
        f"{_LEAVE_AFTER_S[1]:g} s; neighbours at {_SHARE:.0%} of the capacity",
        [
            none_lost(neighbours.samples),
            Check(f"{counted:.0f} of {admitted} counted as cancelled", f"{_COUNTED:.0%}",
                  counted >= _COUNTED * admitted, timed=True),
            Check(f"{'no' if idle else 'a'} slot used or wanted afterwards", "none", idle),
            Check(f"two steps right after a wave take {max(freed_s):.2f} s at most "
                  f"(alone {short_s:.2f} s)",
                  f"{bound_s:.2f} s: half of one of the pictures that were left more",
                  max(freed_s) < bound_s, timed=True),
        ],
        neighbours.samples,
    )  # fmt: skip


async def _draw_s(stage: Stage, variant: str, steps: int) -> float:
    """How long a picture takes now."""
    began_s = now_s()
    await stage.client.draw(_body(variant, steps))
    return now_s() - began_s


def _body(variant: str, steps: int) -> Body:
    return {"model": variant, "prompt": "a red star", "seed": 5, "num_inference_steps": steps}


async def _leave(session: aiohttp.ClientSession, stage: Stage, number: int) -> bool:
    """Ask, and close the connection on the way; whether the request had been let in."""
    asked = _body(VARIANTS[number // 2 % len(VARIANTS)], _STEPS)
    if number % 2:
        asked |= {"stream": True, "partial_images": 3}
    post = session.post(f"{stage.service.url}/v1/images/generations", json=asked)
    if number % 2:
        async with post as response:
            async for line in response.content:
                if line.startswith(b"data:"):
                    break
            response.close()
            return response.status == 200
    try:
        async with (
            asyncio.timeout(random.Random(number).uniform(*_LEAVE_AFTER_S)),
            post as response,
        ):
            return response.status == 200
    except TimeoutError:
        return True
