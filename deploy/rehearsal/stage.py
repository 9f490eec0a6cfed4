"""What the scenarios act on, and what they wait for."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from .clusters import Cluster
from .controller import Controller, wait_until
from .dashboard import running
from .load import Asked, Load
from .overlay import Overlay
from .service import Service

# A start of all pods, one after the other, on a busy machine.
START_LIMIT_S = 300.0
# Load goes on for so long after all is as asked again: what comes late is a loss, too.
_AFTERWARDS_S = 3.0
# A dead endpoint stays in the service until the kubelet, which looks every second, has noticed.
_UNNOTICED_S = 2.0


class NotMet(Exception):
    """An expectation doesn't hold; the message says which, and what was seen."""


@dataclass
class Stage:
    """A RayService under load.

    `started_s` is how long its first start took; `no_redis` says why its head has no Redis, if so.
    """

    overlay: Overlay
    controller: Controller
    service: Service
    load: Load
    started_s: float
    no_redis: str
    tell: Callable[[str], None]

    @property
    def cluster(self) -> Cluster:
        """The active one."""
        return self.controller.active

    def details(self) -> dict[str, Any]:
        """What Serve tells of the active cluster; empty where its head doesn't answer."""
        dashboard = self.cluster.dashboard
        return (dashboard.details() if dashboard is not None else None) or {}

    def status(self) -> str:
        """The first application's."""
        apps = self.details().get("applications") or {}
        return next((str(app["status"]) for app in apps.values()), "")

    def replicas(self) -> dict[str, list[dict[str, Any]]]:
        """Each deployment's replicas that run.

        Raises:
            TimeoutError: the head tells nothing.
        """
        told: list[dict[str, Any]] = []

        def head_tells() -> bool:
            told.append(self.details())
            return bool(told[-1])

        wait_until(head_tells, 60, "the head's answer")
        return _running_replicas(told[-1])

    def replica_ids(self) -> dict[str, set[str]]:
        """Each deployment's running replicas, by what Serve calls them."""
        return {
            name: {one["replica_id"] for one in replicas}
            for name, replicas in self.replicas().items()
        }

    def as_asked(self) -> bool:
        """Whether all pods run, those with replicas are ready, and every variant is warm."""
        details = self.details()
        if not (self.cluster.complete and running(details.get("applications"))):
            return False
        replicas = _running_replicas(details)
        used = {one["node_ip"] for found in replicas.values() for one in found}
        ready = {one.pod.address for one in self.cluster.kubelets if one.ready}
        if not used <= ready:
            return False
        try:
            return httpx.get(f"{self.service.url}/readyz", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def recover(self) -> float:
        """Wait until all is as asked; returns how long it took.

        Raises:
            TimeoutError: it is not.
        """
        return wait_until(self.as_asked, START_LIMIT_S, "recovery", 0.5)

    def since(self, began_s: float) -> list[Asked]:
        """All requests from then until a little after now."""
        time.sleep(_AFTERWARDS_S)
        return self.load.between(began_s, time.monotonic())


def _running_replicas(details: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [one for one in deployment["replicas"] if one["state"] == "RUNNING"]
        for app in details["applications"].values()
        for name, deployment in app["deployments"].items()
    }


def none_lost(asked: Sequence[Asked]) -> None:
    """Expect every picture.

    Raises:
        NotMet: names how many didn't come, and why the first ones didn't.
    """
    lost = [one for one in asked if one.lost]
    if lost:
        first_s = min(one.sent_s for one in asked)
        reasons = [
            f"{one.sample.reason or one.sample.outcome} "
            f"(sent at {one.sent_s - first_s:.0f} s, ended at {one.done_s - first_s:.0f} s)"
            for one in lost
        ]
        raise NotMet(f"{len(lost)} of {len(asked)} requests lost: {'; '.join(reasons[:3])}")


def only_under_way(lost: Sequence[Asked], killed_s: float) -> None:
    """Expect that only requests were lost that a pod held when it was killed.

    Or that were sent to its address before anybody could know.

    Raises:
        NotMet: others were lost.
    """
    others = [one for one in lost if one.sent_s > killed_s + _UNNOTICED_S or one.done_s < killed_s]
    if others:
        none_lost(others)
