"""Processes that die: a replica in the middle of a batch, a router, the proxy."""

import asyncio
import os
import signal

from .. import machine
from ..local import LocalStage
from ..outcome import Found, all_of, is_lost, measured, none, none_lost, within
from ..stage import now_s
from .updates import roll

_SHARE = 0.3
_VICTIM = "distilled"
_COLD_START_LIMIT_S = 90.0
# Serve checks its replicas this often, unless told otherwise.
_NOTICED_S = 10.0


async def replica_killed(stage: LocalStage) -> Found:
    """SIGKILL to a variant's only replica with two requests under way, again and again."""
    times = 3 if stage.quick else 20
    kills_s: list[float] = []
    took_s: list[float] = []
    service, under_way = stage.service, stage.client.under_way
    # It bounds the wait for a new replica, too; local.yaml's is less than a start takes.
    good = service.config
    await roll(stage, service.changed(max_queue_s=_COLD_START_LIMIT_S))
    await stage.wait_until(lambda: len(service.pids(_VICTIM)) == 1, 60, "an end to the old one")
    async with stage.load(_SHARE, seed=3) as load:
        for _ in range(times):
            # A request that has lost a replica already has no try left.
            await stage.wait_until(
                lambda: not (kills_s and load.unfinished_before(kills_s[-1])),
                60,
                "an end to the last kill's work",
            )
            await stage.wait_until(lambda: under_way[_VICTIM] >= 2, 60, "two requests under way")
            (pid,) = service.pids(_VICTIM)
            kills_s.append(now_s())
            os.kill(pid, signal.SIGKILL)

            def replaced(dead: int = pid) -> bool:
                pids = service.pids(_VICTIM)
                return bool(pids) and dead not in pids and service.ready()

            took_s.append(await stage.wait_until(replaced, _COLD_START_LIMIT_S, "a new replica"))
    await roll(stage, good)
    # Its first try ended with one replica, its second with another.
    used_up = load.count(
        lambda sample: (
            is_lost(sample)
            and sum(load.fired_s(sample) <= kill_s <= load.done_s(sample) for kill_s in kills_s)
            >= 2
        )
    )
    bound_s = service.cold_start_s + _NOTICED_S
    why = "a cold start and a health check's period"
    return Found(
        [
            none_lost(load.samples, allowed=used_up),
            within("back at the latest after", max(took_s), bound_s, why),
        ],
        load.samples,
        notes=[
            f"{times} kills, {load.count(lambda one: one.outcome == 'rejected')} refused with 429"
        ],
    )


async def router_killed(stage: LocalStage) -> Found:
    """SIGKILL to one of two routers: the other serves."""
    under_way, service = stage.client.under_way, stage.service
    async with stage.load(_SHARE, seed=4) as load:
        await stage.wait_until(lambda: under_way.total() >= 2, 60, "two requests under way")
        pids = service.pids("router")
        victim, in_both = min(pids), under_way.total()
        killed_s = now_s()
        os.kill(victim, signal.SIGKILL)
        back_s = await stage.wait_until(
            lambda: len(service.pids("router") - {victim}) == len(pids), 60, "a new router"
        )
        await asyncio.sleep(3)
    sent_after = [sample for sample in load.samples if load.fired_s(sample) > killed_s]
    kept = sum(not is_lost(sample) for sample in sent_after)
    return Found(
        [
            none_lost(load.samples, allowed=in_both),
            all_of("answered that were sent after it", kept, len(sent_after)),
            measured(f"two routers again after {back_s:.1f} s"),
        ],
        load.samples,
        notes=[f"{in_both} requests were under way in both routers"],
    )


async def proxy_killed(stage: LocalStage) -> Found:
    """SIGKILL to the node's only proxy: nobody answers until Serve has another."""
    async with stage.load(_SHARE, seed=5) as load:
        await asyncio.sleep(3)
        (victim,) = machine.by_role()["proxy"]
        killed_s = now_s()
        os.kill(victim, signal.SIGKILL)
        await stage.wait_until(stage.service.ready, 60, "a new proxy")
        back_s = now_s()
        await asyncio.sleep(3)
    lost = load.count(is_lost)
    meanwhile = load.count(
        lambda one: is_lost(one) and load.done_s(one) >= killed_s and load.fired_s(one) <= back_s
    )
    return Found(
        [
            none("lost before it or once it was back", lost - meanwhile),
            measured(f"answers again after {back_s - killed_s:.1f} s"),
        ],
        load.samples,
        notes=[f"{meanwhile} lost while there was no proxy"],
    )
