"""Processes that die: a replica in the middle of a batch, a router, the proxy."""

import asyncio
import os
import signal
from collections.abc import Sequence

from loadtests.samples import Sample

from .load import Load
from .outcome import Check, Found, lost_or_wrong, none_lost
from .stage import Stage, now_s

_SHARE = 0.3
_VICTIM = "distilled"
_COLD_START_LIMIT_S = 90.0
# Serve asks its replicas this often, unless told otherwise.
_NOTICED_S = 10.0


async def replica_killed(stage: Stage) -> Found:
    """SIGKILL to a replica with several requests under way, again and again."""
    times = 3 if stage.quick else 20
    kills_s: list[float] = []
    back_s: list[float] = []
    async with stage.load(_SHARE, seed=3) as load:
        for _ in range(times):
            # Who has lost a replica already has no try left.
            await stage.wait_until(
                lambda: not _waiting_since(load, kills_s[-1:]), 60, "an end to the last kill's work"
            )
            await stage.wait_until(
                lambda: stage.client.under_way[_VICTIM] >= 2, 60, "two requests under way"
            )
            (pid,) = stage.service.pids(_VICTIM)
            kills_s.append(now_s())
            os.kill(pid, signal.SIGKILL)
            back_s.append(await _back(stage, pid))
    bound_s = stage.service.cold_start_s + _NOTICED_S
    lost = [one for one in load.samples if lost_or_wrong(one)]
    # Its first try ended with one replica, its second with another.
    used_up = [one for one in lost if _deaths(load, one, kills_s) >= 2]
    return Found(
        f"SIGKILL to `{_VICTIM}`'s only replica, {times} times, with at least two requests under "
        f"way each time; {load.rate_per_s:.1f} requests/s",
        [
            none_lost(load.samples, but=len(used_up)),
            Check(f"back after {max(back_s):.1f} s at most",
                  f"{bound_s:.0f} s: a cold start and a health check's period",
                  max(back_s) <= bound_s, timed=True),
        ],
        load.samples,
        notes=[f"{sum(one.outcome == 'rejected' for one in load.samples)} refused with 429"],
    )  # fmt: skip


def _waiting_since(load: Load, kills_s: Sequence[float]) -> bool:
    """Whether requests that were sent before these moments haven't ended."""
    ended = {one.index for one in load.samples}
    return any(index not in ended for moment in kills_s for index in load.sent_before(moment))


def _deaths(load: Load, sample: Sample, kills_s: Sequence[float]) -> int:
    return sum(load.fired_s(sample) <= moment <= load.done_s(sample) for moment in kills_s)


async def _back(stage: Stage, dead: int) -> float:
    """Seconds until another replica is warm."""
    began_s = now_s()

    def replaced() -> bool:
        pids = stage.service.pids(_VICTIM)
        return bool(pids) and dead not in pids and stage.service.ready()

    await stage.wait_until(replaced, _COLD_START_LIMIT_S, f"another replica of {_VICTIM}")
    return now_s() - began_s


async def router_killed(stage: Stage) -> Found:
    """SIGKILL to one of two routers: the other serves."""
    async with stage.load(_SHARE, seed=4) as load:
        await stage.wait_until(
            lambda: stage.client.under_way.total() >= 2, 60, "two requests under way"
        )
        pids = stage.service.pids("router")
        victim = min(pids)
        held = stage.client.under_way.total()
        killed_s = now_s()
        os.kill(victim, signal.SIGKILL)
        await stage.wait_until(
            lambda: len(stage.service.pids("router") - {victim}) == len(pids), 60, "a new router"
        )
        back_s = now_s() - killed_s
        await asyncio.sleep(3)
    return Found(
        "SIGKILL to one of two routers",
        [
            none_lost(load.samples, but=held),
            *_outage(load, killed_s),
            Check(f"two routers again after {back_s:.1f} s", "measured", True),
        ],
        load.samples,
        notes=[f"{held} requests were under way in both routers"],
    )


async def proxy_killed(stage: Stage) -> Found:
    """SIGKILL to the node's only proxy: nobody answers until Serve has another."""
    async with stage.load(_SHARE, seed=5) as load:
        await asyncio.sleep(3)
        (victim,) = stage.service.proxies
        killed_s = now_s()
        os.kill(victim, signal.SIGKILL)
        await stage.wait_until(stage.service.ready, 60, "a new proxy")
        back_s = now_s() - killed_s
        await asyncio.sleep(3)
    lost = [one for one in load.samples if lost_or_wrong(one)]
    late = [one for one in lost if load.fired_s(one) > killed_s + back_s]
    early = [one for one in lost if load.done_s(one) < killed_s]
    return Found(
        "SIGKILL to the only proxy; on a cluster each node has one "
        "(`make rehearse`, scenario `worker killed`)",
        [
            Check(f"{len(early) + len(late)} lost before it or once it was back", "0",
                  not early and not late),
            Check(f"answers again after {back_s:.1f} s", "measured", True),
        ],
        load.samples,
        notes=[f"{len(lost)} lost while there was no proxy"],
    )  # fmt: skip


def _outage(load: Load, killed_s: float) -> list[Check]:
    """Between the death and the first picture of a request that was sent after it."""
    firsts = [
        load.done_s(one)
        for one in load.samples
        if one.outcome == "ok" and load.fired_s(one) > killed_s
    ]
    lost = [
        load.fired_s(one) - killed_s
        for one in load.samples
        if lost_or_wrong(one) and load.fired_s(one) > killed_s
    ]
    first = f"next picture {min(firsts) - killed_s:.1f} s later" if firsts else "no picture after"
    return [
        Check(f"{first}; {len(lost)} lost that were sent after it", "a picture; 0",
              bool(firsts) and not lost),
    ]  # fmt: skip
