"""What stands still without ending: a device call, or a replica's whole process."""

import asyncio
import os
import signal
from collections.abc import Callable

from .load import Load
from .outcome import Check, Found, lost_or_wrong, none_lost
from .service import HEALTH_PERIOD_S, HEALTH_TIMEOUT_S, STUCK_AFTER_S
from .stage import Stage, now_s
from .stuck import hang_file

# So many failed checks in a row replace a replica; Serve's own number.
_FAILURES = 3
# Serve varies the period by a tenth, looks a few times a second, and starts another process.
_REACTION_S = 10.0
# The sleeping device draws much more; so it is a device call that the requests wait for.
_RATE_PER_S = 4.0
_NEIGHBOURS = 0.2


async def stuck_step(stage: Stage) -> Found:
    """A denoising step of one of two replicas never returns: it is replaced."""
    bound_s = STUCK_AFTER_S + _FAILURES * HEALTH_PERIOD_S + _REACTION_S
    return await _stand_still(
        stage,
        lambda pid: hang_file(stage.scratch, pid).touch(),
        f"a step of one of two replicas never returns; `stuck_after_s` {STUCK_AFTER_S:g}, health "
        f"checks every {HEALTH_PERIOD_S:g} s",
        bound_s,
    )


async def frozen_process(stage: Stage) -> Found:
    """SIGSTOP to one of two replicas: it is replaced."""
    bound_s = _FAILURES * (HEALTH_TIMEOUT_S + HEALTH_PERIOD_S) + _REACTION_S
    return await _stand_still(
        stage,
        lambda pid: os.kill(pid, signal.SIGSTOP),
        f"SIGSTOP to one of two replicas; health checks every {HEALTH_PERIOD_S:g} s, each given "
        f"{HEALTH_TIMEOUT_S:g} s",
        bound_s,
    )


async def _stand_still(
    stage: Stage, halt: Callable[[int], object], done: str, bound_s: float
) -> Found:
    """Halt one replica and wait until it is gone and another there."""
    slow = Load(stage.steps_client, stage.steps_requests, _RATE_PER_S, seed=7)
    async with slow, stage.load(_NEIGHBOURS, seed=8) as neighbours:
        await asyncio.sleep(3)
        before = stage.service.pids("distilled", "steps")
        victim = min(before)
        halted_s = now_s()
        await asyncio.to_thread(halt, victim)

        def replaced() -> bool:
            now = stage.service.pids("distilled", "steps")
            return victim not in now and len(now) == len(before)

        await stage.wait_until(replaced, 4 * bound_s, "another replica")
        back_s = now_s() - halted_s
        await asyncio.sleep(3)
    slowest_s = max(one.latency_s for one in slow.samples)
    hanging = sum(
        slow.fired_s(one) < halted_s + back_s and one.latency_s > STUCK_AFTER_S
        for one in slow.samples
    )
    late = [one for one in slow.samples if slow.fired_s(one) > halted_s + back_s + 1]
    return Found(
        done,
        [
            none_lost(slow.samples),
            Check(f"replaced after {back_s:.1f} s", f"{bound_s:.0f} s", back_s <= bound_s,
                  timed=True),
            Check(f"other variants: {sum(map(lost_or_wrong, neighbours.samples))} lost or wrong",
                  "0", not any(map(lost_or_wrong, neighbours.samples))),
            Check(f"{sum(map(lost_or_wrong, late))} lost once it was replaced", "0",
                  not any(map(lost_or_wrong, late))),
        ],
        [*slow.samples, *neighbours.samples],
        notes=[f"{hanging} requests waited for it, {slowest_s:.1f} s at most, and were drawn by "
               "another replica"],
    )  # fmt: skip
