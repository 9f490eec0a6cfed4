"""Most of the capacity for a long time: nothing is lost, and nothing grows."""

import asyncio

from ..local import SLO_S, LocalStage
from ..machine import growth, usage_now
from ..outcome import Check, Found, none_lost, p95_s, within
from ..stage import now_s

_SHARE = 0.8
# Buffers and caches fill until then.
_WARM_UP = 0.2
_LOOK_EVERY_S = 5.0
_MOST_GROWTH = 0.05
# Growth within a few minutes is what fills caches.
_DECIDING_S = 180.0
_MOST_DESCRIPTORS = 4
_MOST_REFUSED = 0.01


async def soak(stage: LocalStage) -> Found:
    """Mixed variants, steps and sizes at 80 % of the capacity."""
    looks = []
    async with stage.load(_SHARE, seed=9) as load:
        end_s = now_s() + stage.soak_s
        await asyncio.sleep(_WARM_UP * stage.soak_s)
        while now_s() < end_s:
            looks.append(await asyncio.to_thread(usage_now))
            await asyncio.sleep(min(_LOOK_EVERY_S, max(0.0, end_s - now_s())))
    samples = load.samples
    refused = load.count(lambda sample: sample.outcome == "rejected")
    few = refused <= _MOST_REFUSED * len(samples)
    grown = growth(looks)
    larger = max(grown, key=lambda one: one.memory_share)
    # The proxy has a connection per client, and each needs one at a busy moment.
    more = max((one for one in grown if one.role != "proxy"), key=lambda one: one.descriptors)
    decides = stage.soak_s >= _DECIDING_S
    sizes = [f"{g.role} {g.first[0] / 2**20:.0f} to {g.last[0] / 2**20:.0f} MiB" for g in grown]
    return Found(
        [
            none_lost(samples),
            Check(f"{refused} refused", f"{_MOST_REFUSED:.0%}", few, timed=True),
            within("p95", p95_s(samples), SLO_S),
            Check(
                f"memory {larger.memory_share:+.1%} ({larger.role}, the most)",
                f"{_MOST_GROWTH:+.0%}, from {_DECIDING_S / 60:g} minutes on",
                larger.memory_share < _MOST_GROWTH or not decides,
            ),
            Check(
                f"descriptors {more.descriptors:+d} ({more.role}, the most)",
                f"{_MOST_DESCRIPTORS:+d}",
                more.descriptors <= _MOST_DESCRIPTORS,
            ),
        ],
        samples,
        notes=[f"{stage.soak_s / 60:g} min, {load.rate_per_s:.1f} requests/s", ", ".join(sizes)],
    )
