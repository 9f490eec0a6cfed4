"""What operators of an overlay do, and what befalls its pods.

Here a 429 counts as a loss, too: the load is far below what the overlay can draw.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from copy import deepcopy
from typing import TypeVar

import httpx

from loadtests.samples import Sample

from ..load import Load
from ..outcome import Check, Found, Skipped, all_of, measured, none, none_lost, within
from ..overlay.kubelet import Kubelet
from ..overlay.serve_config import ROUTER, Config, options
from ..overlay.service import START_LIMIT_S, OverlayStage
from ..stage import now_s

T = TypeVar("T")
# The old cluster of an upgrade is kept for the overlay's delay, but no longer than this: the
# longest request of the load has ended by far.
_LONGEST_DELETION_DELAY_S = 30.0
# A router learns of a variant's replicas when it is first asked for that variant, so that one that
# never was would wait for the head. After so long under load each has been asked for all.
_ROUTERS_KNOW_S = 20.0
# How long a broken configuration stays: the load must not notice.
_BROKEN_FOR_S = 5.0
# A dead endpoint stays in the service until the kubelet, which looks every second, has noticed.
_UNNOTICED_S = 2.0
# Load goes on for so long after all is as it should be again: what comes late is a loss, too.
_AFTERWARDS_S = 3.0


async def placement(stage: OverlayStage) -> Found:
    """Every replica is on a worker group that its deployment asked for, and all draw."""
    service = stage.service
    actors = options(service.operator.config)
    groups = {one.pod.address: one.group for one in service.cluster.kubelets}
    places, misplaced = [], []
    replicas = await _answer(stage, service.replicas)
    for name, found in replicas.items():
        wanted = actors.get(name, {}).get("label_selector") or {}
        for replica in found:
            group = groups.get(replica["node_ip"])
            places.append(f"{name} in {group.name if group else replica['node_ip']}")
            if group is None or group.is_head or not wanted.items() <= group.labels.items():
                misplaced.append(f"{places[-1]}, asked for {wanted}")
    absent = [name for name in actors if not replicas.get(name)]
    routers = [one["node_ip"] for one in replicas.get(ROUTER, [])]
    together = routers[0:1] if len(routers) > 1 and len(set(routers)) == 1 else []
    bodies = {body["model"]: body for body in stage.requests.bodies}.values()
    drawn = [(await stage.client.draw(body)).verdict.outcome for body in bodies].count("ok")
    checks = [
        none("misplaced", misplaced),
        none("without a replica", absent),
        none("a worker with all routers", together),
        all_of("variants drew a picture", drawn, len(bodies)),
    ]
    if service.key is not None:
        checks.append(await asyncio.to_thread(_only_with_the_key, stage))
    return Found(
        checks,
        sent=len(bodies),
        lost=len(bodies) - drawn,
        notes=[", ".join(sorted(places)), f"ready after {service.started_after_s:.1f} s"],
    )


def _only_with_the_key(stage: OverlayStage) -> Check:
    url, body = f"{stage.service.url}/v1/images/generations", stage.requests.bodies[0]
    others: tuple[dict[str, str], ...] = {}, {"Authorization": "Bearer dsd-another"}
    replies = [httpx.post(url, json=body, headers=headers, timeout=120) for headers in others]
    statuses = [reply.status_code for reply in replies]
    return Check(f"without a key, with another: {statuses}", "401", statuses == [401, 401])


async def configuration_changed(stage: OverlayStage) -> Found:
    """Another serve configuration, which replaces a variant's replicas."""
    operator, variant = stage.service.operator, stage.service.variants[0]
    before = await _answer(stage, stage.service.replica_ids)

    def ask_for_less(app: Config) -> None:
        (found,) = [one for one in app["deployments"] if one["name"] == variant]
        actor = found.setdefault("ray_actor_options", {})
        actor["num_cpus"] = round(0.9 * actor.get("num_cpus", 1), 3)

    def replaced() -> bool:
        now = stage.service.replica_ids().get(variant, set())
        return bool(now) and not now & before[variant]

    async with _disturbed(stage) as (load, checks):
        operator.config = _changed(operator.config, ask_for_less)
        await stage.wait_until(replaced, START_LIMIT_S, f"other replicas of {variant}")
    return _found(load, checks)


async def broken_configuration(stage: OverlayStage) -> Found:
    """Broken configurations are refused, and the replicas of the old one go on."""
    service, operator = stage.service, stage.service.operator
    good = operator.config
    before = await _answer(stage, stage.service.replica_ids)

    async def wait_for_status(status: str) -> None:
        await stage.wait_until(lambda: service.status() == status, 120, status)

    async with _disturbed(stage) as (load, checks):
        try:
            operator.config = _changed(
                good, lambda app: app["deployments"][0].update(num_replicas="several")
            )
            await stage.wait_until(
                lambda: operator.active.refusal, 60, "the refusal of a malformed one"
            )
            args = {**good["applications"][0].get("args", {}), "variants": "no-such-variant"}
            for change in ({"import_path": "serve.app:no_such_function"}, {"args": args}):
                operator.config = _changed(good, lambda app, change=change: app.update(change))  # type: ignore[misc]
                await wait_for_status("DEPLOY_FAILED")
                await asyncio.sleep(_BROKEN_FOR_S)
                operator.config = good
                await wait_for_status("RUNNING")
                checks.append(await _none_gone(stage, before))
        finally:
            operator.config = good
    return _found(load, checks)


def _changed(config: Config, change: Callable[[Config], object]) -> Config:
    changed = deepcopy(config)
    change(changed["applications"][0])
    return changed


async def worker_drained(stage: OverlayStage) -> Found:
    """A worker pod is deleted, as `kubectl drain` does it."""
    target = await _busiest_worker(stage)
    async with _disturbed(stage) as (load, checks):
        took_s = await asyncio.to_thread(stage.service.cluster.delete, target)
        checks.append(within("ended after", took_s, target.group.grace_period_s))
    return _found(load, checks)


async def worker_killed(stage: OverlayStage) -> Found:
    """A worker's processes die at once: only what was under way is lost, and a retry draws it."""
    service = stage.service
    target = await _busiest_worker(stage)
    address = target.pod.address
    async with _disturbed(stage) as (load, checks):
        await stage.wait_until(lambda: service.proxy.open[address], 60, "a request to the worker")
        killed_s = now_s()
        await asyncio.to_thread(target.pod.kill)
        await stage.wait_until(lambda: not service.ready(), 60, "the loss of the worker")
    lost = [sample for sample in load.samples if sample.outcome != "ok"]
    others = [sample for sample in lost if not was_under_way(load, sample, killed_s)]
    again = [(await stage.client.draw(load.asked(sample))).verdict.outcome for sample in lost]
    failed = len(lost) - again.count("ok")
    return Found(
        [*_nothing_lost(others), none("lost once more when asked again", failed), *checks],
        load.samples,
        notes=[f"{len(lost) - len(others)} lost that were under way"],
    )


def was_under_way(load: Load, sample: Sample, killed_s: float) -> bool:
    """Whether a pod had it when it was killed, or it was sent there before anybody could know."""
    return load.done_s(sample) >= killed_s and load.fired_s(sample) <= killed_s + _UNNOTICED_S


async def head_killed(stage: OverlayStage) -> Found:
    """The head dies: requests are answered all the while, by the same replicas."""

    async def kill(head: Kubelet) -> list[Check]:
        await asyncio.to_thread(head.pod.kill)
        await stage.wait_until(
            lambda: not stage.service.cluster.details(), 60, "the loss of the head"
        )
        return []

    return await _without_a_head(stage, kill)


async def head_evicted(stage: OverlayStage) -> Found:
    """The head is evicted: it goes within its grace period, and the same replicas answer."""

    async def evict(head: Kubelet) -> list[Check]:
        took_s = await asyncio.to_thread(stage.service.cluster.delete, head)
        return [within("gone after", took_s, head.group.grace_period_s)]

    return await _without_a_head(stage, evict)


async def _without_a_head(
    stage: OverlayStage, lose: Callable[[Kubelet], Awaitable[list[Check]]]
) -> Found:
    if stage.service.no_redis:
        raise Skipped(stage.service.no_redis)
    async with stage.load(1):
        await asyncio.sleep(_ROUTERS_KNOW_S)
    before = await _answer(stage, stage.service.replica_ids)
    async with _disturbed(stage) as (load, checks):
        head = stage.service.cluster.head
        assert head is not None  # It answered a moment ago.
        checks += await lose(head)
    checks.append(await _none_gone(stage, before))
    return _found(load, checks)


async def autoscaler_ended(stage: OverlayStage) -> Found:
    """The autoscaler's process dies: another one comes, and the head stays ready."""
    head = stage.service.cluster.head
    assert head is not None  # The service is whole.
    if not head.pod.autoscalers:
        raise Skipped("the overlay has no autoscaler")
    (autoscaler,) = head.pod.autoscalers
    async with _disturbed(stage) as (load, checks):
        autoscaler.kill()
        await asyncio.to_thread(autoscaler.wait)
        took_s = await stage.wait_until(lambda: head.pod.autoscalers, 60, "another autoscaler")
        checks += [
            measured(f"another after {took_s:.1f} s"),
            Check(f"head ready: {head.ready}", "True", head.ready),
        ]
    return _found(load, checks)


async def blue_green(stage: OverlayStage) -> Found:
    """A second cluster takes over, and a third takes back."""
    operator = stage.service.operator
    delay_s = min(operator.deletion_delay_s, _LONGEST_DELETION_DELAY_S)
    async with _disturbed(stage) as (load, checks):
        for _ in range(2):
            old = operator.upgrade()
            await stage.wait_until(lambda: operator.pending is None, START_LIMIT_S, "the switch")
            await asyncio.sleep(delay_s)
            threading.Thread(target=old.delete_all, daemon=True).start()
            workers = "the end of the old workers"
            await stage.wait_until(lambda old=old: not old.workers, START_LIMIT_S, workers)  # type: ignore[misc]
            await stage.wait_until(stage.service.ready, START_LIMIT_S, "recovery")
    return _found(load, checks)


@contextlib.asynccontextmanager
async def _disturbed(stage: OverlayStage) -> AsyncIterator[tuple[Load, list[Check]]]:
    """Load until all is as it should be after what is done meanwhile; and room for checks."""
    checks: list[Check] = []
    async with stage.load(1, seed=11) as load:
        began_s = now_s()
        yield load, checks
        await stage.wait_until(stage.service.ready, START_LIMIT_S, "recovery")
        checks.append(measured(f"recovery after {now_s() - began_s:.1f} s"))
        await asyncio.sleep(_AFTERWARDS_S)


def _found(load: Load, checks: list[Check]) -> Found:
    return Found([*_nothing_lost(load.samples), *checks], load.samples)


def _nothing_lost(samples: list[Sample]) -> list[Check]:
    refused = sum(sample.outcome == "rejected" for sample in samples)
    return [none_lost(samples), Check(f"{refused} refused", "0", not refused, timed=True)]


async def _answer(stage: OverlayStage, ask: Callable[[], dict[str, T]]) -> dict[str, T]:
    """What the head answers, once it does."""
    found: dict[str, T] = {}
    await stage.wait_until(lambda: found.update(ask()) or found, 60, "the head's answer")
    return found


async def _none_gone(stage: OverlayStage, before: dict[str, set[str]]) -> Check:
    """Expect that no replica has gone; there may be more than before."""
    now = await _answer(stage, stage.service.replica_ids)
    gone = {name: ids - now.get(name, set()) for name, ids in before.items()}
    return none("replicas gone", sorted(set().union(*gone.values())))


async def _busiest_worker(stage: OverlayStage) -> Kubelet:
    """A ready worker with replicas of variants: the one with the most."""
    replicas = await _answer(stage, stage.service.replicas)
    addresses = [one["node_ip"] for name in stage.service.variants for one in replicas[name]]
    ready = [one for one in stage.service.cluster.workers if one.ready]
    return max(ready, key=lambda one: addresses.count(one.pod.address))
