"""Most of the capacity for a long time: nothing is lost, and nothing grows."""

import asyncio
import contextlib
from collections.abc import Sequence

from loadtests.samples import percentile

from .machine import Growth, Held, growth, held
from .outcome import Check, Found, none_lost
from .service import SLO_S
from .stage import Stage

_SHARE = 0.8
# Buffers and caches fill until then.
_WARM_UP = 0.2
_LOOK_EVERY_S = 5.0
_MOST_GROWTH = 0.05
# Growth of less than a few minutes is what fills caches.
_DECIDING_S = 180.0
_MOST_DESCRIPTORS = 4
_MOST_REFUSED = 0.01


async def soak(stage: Stage) -> Found:
    """Mixed variants, steps and sizes at 80 % of the capacity."""
    seen: list[Held] = []
    async with stage.load(_SHARE, seed=9) as load:
        await asyncio.sleep(_WARM_UP * stage.soak_s)
        looking = asyncio.create_task(_look(seen))
        await asyncio.sleep((1 - _WARM_UP) * stage.soak_s)
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
    samples = load.samples
    latencies = sorted(one.latency_s for one in samples if one.outcome == "ok")
    p95_s = percentile(latencies, 95) or float("inf")
    refused = sum(one.outcome == "rejected" for one in samples)
    grown = growth(seen)
    return Found(
        f"{stage.soak_s / 60:g} min at {_SHARE:.0%} of the capacity "
        f"({load.rate_per_s:.1f} requests/s)",
        [
            none_lost(samples),
            Check(f"{refused} refused", f"{_MOST_REFUSED:.0%}",
                  refused <= _MOST_REFUSED * len(samples), timed=True),
            Check(f"p95 {p95_s:.2f} s", f"SLO {SLO_S:g} s", p95_s <= SLO_S, timed=True),
            _memory(grown, stage.soak_s),
            _descriptors(grown),
        ],
        samples,
        notes=[", ".join(f"{one.role} {one.memory_bytes[0] / 2**20:.0f} to "
                         f"{one.memory_bytes[1] / 2**20:.0f} MiB" for one in grown)],
    )  # fmt: skip


async def _look(seen: list[Held]) -> None:
    while True:
        seen += await asyncio.to_thread(held)
        await asyncio.sleep(_LOOK_EVERY_S)


def _memory(grown: Sequence[Growth], lasted_s: float) -> Check:
    worst = max(grown, key=lambda one: one.memory)
    figure = f"memory {worst.memory:+.1%} ({worst.role}, the most)"
    if lasted_s < _DECIDING_S:
        return Check(figure, f"from {_DECIDING_S / 60:g} minutes on", True)
    return Check(figure, f"{_MOST_GROWTH:+.0%}", worst.memory < _MOST_GROWTH)


def _descriptors(grown: Sequence[Growth]) -> Check:
    # The proxy has a connection per client, and each needs one at a busy moment.
    flat = [one for one in grown if one.role != "proxy"]
    worst = max(flat, key=lambda one: one.descriptors[1] - one.descriptors[0])
    first, last = worst.descriptors
    return Check(
        f"descriptors {last - first:+d} ({worst.role}, the most)",
        f"{_MOST_DESCRIPTORS:+d}",
        last - first <= _MOST_DESCRIPTORS,
    )
