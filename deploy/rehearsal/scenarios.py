"""One function per thing that must hold, each with its own expectation.

All run while the load does. A function disturbs, waits until all is as asked again, and returns
what it did and how long recovery took; it raises `NotMet` where its expectation doesn't hold.
"""

import threading
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass

import httpx

from .controller import wait_until
from .kubelet import Kubelet
from .load import Asked
from .serve_config import (
    ROUTER,
    Config,
    matches,
    options,
    variants,
    with_argument,
    with_less_cpu,
)
from .stage import START_LIMIT_S, NotMet, Stage, none_lost, only_under_way

# The old cluster of an upgrade is kept for the overlay's delay, but no longer than this: the
# longest request of the load has ended by far.
_LONGEST_DELETION_DELAY_S = 30.0

# A router learns of a variant's replicas when it is first asked for that variant, so that one which
# never was would wait for the head. After so long under load each has been asked for all.
_ROUTERS_KNOW_S = 20.0

# How long a broken configuration stays: the load must not notice.
_BROKEN_FOR_S = 5.0


@dataclass(frozen=True)
class Found:
    """What a scenario did, whose requests it saw, and how long recovery took."""

    done: str
    asked: list[Asked]
    recovered_s: float


class Skipped(Exception):
    """The scenario can't be rehearsed here; the message says why."""


Scenario = Callable[[Stage], Found]


def placed(stage: Stage) -> Found:
    """Every replica is on a worker group that its deployment asked for, and all draw."""
    wanted = {
        name: asked.get("label_selector") or {}
        for name, asked in options(stage.controller.config).items()
    }
    replicas = stage.replicas()
    places = []
    for name, found in replicas.items():
        if not found:
            raise NotMet(f"{name} has no running replica")
        for replica in found:
            group = stage.cluster.group_of(replica["node_ip"])
            if group is None or group.is_head:
                raise NotMet(f"{name} runs on the head, or on no pod: {replica['node_ip']}")
            if not matches(wanted.get(name, {}), group.labels):
                raise NotMet(
                    f"{name} asked for {dict(wanted[name])} and runs in group {group.name!r}, "
                    f"labelled {dict(group.labels)}"
                )
            places.append(f"{name} in {group.name}")
    routers = [one["node_ip"] for one in replicas.get(ROUTER, [])]
    if len(routers) > 1 and len(set(routers)) == 1:
        raise NotMet(f"one worker holds all {len(routers)} routers: nobody answers without it")
    asked = stage.load.once()
    none_lost(asked)
    done = f"started; {', '.join(sorted(places))}; a picture of each variant"
    if stage.load.key is not None:
        _only_with_the_key(stage)
        done += " with a key of the Secret, and 401 without one and with another"
    return Found(done, asked, stage.started_s)


def _only_with_the_key(stage: Stage) -> None:
    for who, status in stage.load.statuses_without_key().items():
        if status != httpx.codes.UNAUTHORIZED:
            raise NotMet(f"a request with {who} got {status} instead of 401")


def config_changed(stage: Stage) -> Found:
    """Another serve configuration, which replaces a variant's replicas: nothing is lost."""
    variant = variants(stage.controller.config)[0]
    before = stage.replica_ids()[variant]
    began_s = time.monotonic()
    _change(stage, with_less_cpu(stage.controller.config, variant))

    def replaced() -> bool:
        now = stage.replica_ids().get(variant, set())
        return bool(now) and not now & before

    wait_until(replaced, START_LIMIT_S, f"the replacement of {variant}'s replicas", 0.5)
    stage.recover()
    recovered_s = time.monotonic() - began_s
    asked = stage.since(began_s)
    none_lost(asked)
    return Found(f"serveConfigV2 changed: replicas of {variant} replaced", asked, recovered_s)


def worker_drained(stage: Stage) -> Found:
    """A worker pod is deleted, as `kubectl drain` does it: nothing is lost."""
    target = _busiest_worker(stage)
    began_s = time.monotonic()
    took_s = stage.cluster.delete(target)
    stage.tell(f"  {target.pod.name} ended after {took_s:.0f} s")
    stage.recover()
    recovered_s = time.monotonic() - began_s
    asked = stage.since(began_s)
    none_lost(asked)
    if took_s >= target.group.grace_period_s:
        raise NotMet(f"it hadn't ended after {took_s:.0f} s and was killed")
    return Found(f"SIGTERM to a worker of {target.group.name}", asked, recovered_s)


def worker_killed(stage: Stage) -> Found:
    """A worker's processes die at once: only what was under way is lost, and a retry draws it."""
    target = _busiest_worker(stage)
    address = target.pod.address
    wait_until(lambda: stage.service.open[address] > 0, 60, "a request to the worker", 0.01)
    began_s = time.monotonic()
    target.pod.kill()
    wait_until(lambda: not stage.as_asked(), 60, "the loss of the worker", 0.1)
    stage.recover()
    recovered_s = time.monotonic() - began_s
    asked = stage.since(began_s - 10)  # Those that were under way were sent before.
    lost = [one for one in asked if one.lost]
    only_under_way(lost, began_s)
    none_lost(stage.load.ask_again(lost))
    return Found(
        f"SIGKILL to a worker of {target.group.name}; the {len(lost)} lost were under way, and "
        "drawn when asked again",
        asked,
        recovered_s,
    )


def head_killed(stage: Stage) -> Found:
    """The head dies: the data plane answers all the while, with the same replicas."""
    if stage.no_redis:
        raise Skipped(stage.no_redis)
    wait_until(lambda: stage.load.lasted_s > _ROUTERS_KNOW_S, START_LIMIT_S, "a request of each")
    before = stage.replica_ids()
    head = stage.cluster.head
    assert head is not None  # It answered a moment ago.
    began_s = time.monotonic()
    head.pod.kill()
    wait_until(lambda: not stage.details(), 60, "the loss of the head", 0.1)
    stage.recover()
    recovered_s = time.monotonic() - began_s
    asked = stage.since(began_s)
    none_lost(asked)
    _all_still_there(stage, before)
    return Found("SIGKILL to the head; its state came back from Redis", asked, recovered_s)


def upgraded_and_back(stage: Stage) -> Found:
    """A second cluster takes over, and a third takes back: nothing is lost."""
    began_s = time.monotonic()
    for _ in range(2):
        old = stage.controller.upgrade()
        wait_until(
            lambda old=old: stage.controller.active is not old,  # type: ignore[misc]
            START_LIMIT_S,
            "the switch to the new cluster",
            0.1,
        )
        stage.tell(f"  {old.name} has handed over to {stage.cluster.name}")
        time.sleep(min(stage.controller.deletion_delay_s, _LONGEST_DELETION_DELAY_S))
        threading.Thread(target=old.delete_all, daemon=True).start()
        # The head is never idle, so it drains for as long as it may; nobody waits for it.
        wait_until(lambda old=old: not old.workers, START_LIMIT_S, "the end of the old workers")  # type: ignore[misc]
        stage.recover()
    recovered_s = time.monotonic() - began_s
    asked = stage.since(began_s)
    none_lost(asked)
    return Found("blue/green to a second cluster, and again to a third", asked, recovered_s)


def broken_config(stage: Stage) -> Found:
    """Broken configurations are refused, and the replicas of the old one go on."""
    good = stage.controller.config
    before = stage.replica_ids()
    began_s = time.monotonic()
    try:
        _change(stage, _malformed(good))
        wait_until(lambda: bool(stage.controller.refusal), 60, "the refusal of a malformed one")
        for broken in (_unbuildable(good), with_argument(good, variants="no-such-variant")):
            _change(stage, broken)
            wait_until(lambda: stage.status() == "DEPLOY_FAILED", 120, "DEPLOY_FAILED")
            time.sleep(_BROKEN_FOR_S)
            _change(stage, good)
            wait_until(lambda: stage.status() == "RUNNING", 120, "RUNNING")
            _all_still_there(stage, before)
    finally:
        _change(stage, good)
    stage.recover()
    recovered_s = time.monotonic() - began_s
    asked = stage.since(began_s)
    none_lost(asked)
    done = "serveConfigV2 malformed, with a wrong import path, and with a wrong argument"
    return Found(done, asked, recovered_s)


def _change(stage: Stage, config: Config) -> None:
    stage.controller.config = config


def _all_still_there(stage: Stage, before: dict[str, set[str]]) -> None:
    """Expect that no replica has gone; there may be more than before."""
    now = stage.replica_ids()
    gone = {name: ids - now.get(name, set()) for name, ids in before.items()}
    if any(gone.values()):
        raise NotMet(f"replicas went: {', '.join(sorted(set().union(*gone.values())))}")


def _malformed(config: Config) -> Config:
    """What the dashboard refuses at once."""
    broken = deepcopy(config)
    broken["applications"][0]["deployments"][0]["num_replicas"] = "several"
    return broken


def _unbuildable(config: Config) -> Config:
    """What is well-formed, and can't be built."""
    broken = deepcopy(config)
    broken["applications"][0]["import_path"] = "serve.app:no_such_function"
    return broken


def _busiest_worker(stage: Stage) -> Kubelet:
    """A ready worker with replicas of variants: the one with the most."""
    addresses = [
        one["node_ip"]
        for name, replicas in stage.replicas().items()
        if name != ROUTER
        for one in replicas
    ]
    ready = [one for one in stage.cluster.workers if one.ready]
    return max(ready, key=lambda one: addresses.count(one.pod.address))


FULL: dict[str, Scenario] = {
    "placement": placed,
    "configuration changed": config_changed,
    "broken configuration": broken_config,
    "worker drained": worker_drained,
    "worker killed": worker_killed,
    "head killed": head_killed,
    "blue/green": upgraded_and_back,
}
QUICK = ("placement", "configuration changed", "broken configuration", "worker killed")
