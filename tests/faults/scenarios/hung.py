"""What stands still without ending: a device call, or a replica's whole process."""

import asyncio
import os
import signal
from collections.abc import Callable

from ..load import Load
from ..local import LocalStage, sleeping_device
from ..outcome import Found, is_lost, none, none_lost, within
from ..stage import now_s
from ..stuck import hang_file

# So many failed checks in a row replace a replica; Serve's own number.
_FAILURES = 3
# Serve varies the period by a tenth, looks a few times a second, and starts another process.
_REACTION_S = 10.0
# The sleeping device draws much more; so requests only wait for a device call.
_RATE_PER_S = 4.0
_NEIGHBOURS = 0.2


async def stuck_step(stage: LocalStage) -> Found:
    """A denoising step of one of two replicas never returns: it is replaced."""
    stuck_s, period_s, _ = _limits_s(stage)
    bound_s = stuck_s + _FAILURES * period_s + _REACTION_S
    return await _stand_still(
        stage, lambda pid: hang_file(stage.service.scratch, pid).touch(), bound_s
    )


async def frozen_process(stage: LocalStage) -> Found:
    """SIGSTOP to one of two replicas: it is replaced."""
    _, period_s, timeout_s = _limits_s(stage)
    bound_s = _FAILURES * (timeout_s + period_s) + _REACTION_S
    return await _stand_still(stage, lambda pid: os.kill(pid, signal.SIGSTOP), bound_s)


def _limits_s(stage: LocalStage) -> tuple[float, float, float]:
    """After what a step counts as stuck; the period and the timeout of health checks."""
    app = stage.service.config["applications"][1]
    replicas = app["deployments"][1]
    period_s, timeout_s = replicas["health_check_period_s"], replicas["health_check_timeout_s"]
    return app["args"]["stuck_after_s"], period_s, timeout_s


async def _stand_still(stage: LocalStage, halt: Callable[[int], object], bound_s: float) -> Found:
    async with (
        sleeping_device(stage) as (client, requests),
        Load(client, requests, _RATE_PER_S, seed=7) as slow,
        stage.load(_NEIGHBOURS, seed=8) as neighbours,
    ):
        await asyncio.sleep(3)
        before = stage.service.pids("distilled", "steps")
        victim = min(before)
        halted_s = now_s()
        await asyncio.to_thread(halt, victim)

        def replaced() -> bool:
            now = stage.service.pids("distilled", "steps")
            return victim not in now and len(now) == len(before)

        await stage.wait_until(replaced, 4 * bound_s, "another replica")
        back_s = now_s()
        await asyncio.sleep(3)
    late = slow.count(lambda one: is_lost(one) and slow.fired_s(one) > back_s + 1)
    slowest_s = max(sample.latency_s for sample in slow.samples)
    return Found(
        [
            none_lost(slow.samples),
            within("replaced after", back_s - halted_s, bound_s),
            none("lost or wrong of other variants", neighbours.count(is_lost)),
            none("lost once it was replaced", late),
        ],
        [*slow.samples, *neighbours.samples],
        notes=[f"a request waited for it for {slowest_s:.1f} s at most"],
    )
