"""The kubelet's part in one pod's life: start, restart, and readiness probes."""

import threading
import time
from collections.abc import Mapping, Sequence

import httpx

from .manifests import Manifest, OverlayError
from .pods import Pod
from .translation import AGENT_PORT, Group

SERVE_PORT = 8000
# How long a container's end may go unnoticed: the kubelet lists its containers every second.
_LISTED_EVERY_S = 1.0
_DEFAULTS = {
    "initialDelaySeconds": 0,
    "periodSeconds": 10,
    "timeoutSeconds": 1,
    "failureThreshold": 3,
}
# What the operator adds to a head of Ray 2.53 and newer: `initReadinessProbe` in KubeRay v1.7.0's
# `ray-operator/controllers/ray/common/pod.go`. Workers of ours bring their own.
_HEADS: Manifest = {
    "httpGet": {"port": AGENT_PORT, "path": "/api/healthz"},
    "initialDelaySeconds": 10,
    "periodSeconds": 5,
    "timeoutSeconds": 5,
    "failureThreshold": 10,
}


def readiness_probe(group: Group) -> Manifest:
    """The template's, with Kubernetes' defaults and its port as a number; else the operator's."""
    own: Manifest = group.container.get("readinessProbe") or (_HEADS if group.is_head else {})
    if "httpGet" not in own:
        raise OverlayError(f"a readiness probe without httpGet, in group {group.name!r}")
    ports = {one.get("name"): one["containerPort"] for one in group.container.get("ports", [])}
    port = own["httpGet"]["port"]
    return {**_DEFAULTS, **own, "httpGet": {**own["httpGet"], "port": ports.get(port, port)}}


def raylet_alive(address: str) -> bool:
    return "success" in (get(address, AGENT_PORT, "/api/local_raylet_healthz", 2) or "")


def get(address: str, port: int, path: str, timeout_s: float) -> str | None:
    """The text of a successful reply, else None."""
    try:
        reply = httpx.get(f"http://{address}:{port}{path}", timeout=timeout_s)
    except httpx.HTTPError:
        return None
    return reply.text if reply.is_success else None


class Kubelet(threading.Thread):
    """Runs one pod until it is deleted, or failed where its template says never to restart."""

    def __init__(
        self,
        pod: Pod,
        group: Group,
        args: str,
        environment: Mapping[str, str],
        autoscaler: Sequence[str] = (),
    ) -> None:
        super().__init__(name=f"kubelet-{pod.name}", daemon=True)
        self.pod = pod
        self.group = group
        self.failed = False
        self._start = (args, environment, autoscaler)
        self._probe = readiness_probe(group)
        self._deleted = threading.Event()
        self._ended = threading.Event()
        self._failures = self._probe["failureThreshold"]

    @property
    def ready(self) -> bool:
        """What services follow: all containers run, probes pass, and it isn't being deleted."""
        passes = self._failures < self._probe["failureThreshold"]
        return not self._deleted.is_set() and passes and self.pod.whole

    def run(self) -> None:
        probe, starts, next_probe_s = self._probe, 0, 0.0
        address, port, path = self.pod.address, probe["httpGet"]["port"], probe["httpGet"]["path"]
        while not self._ended.is_set():
            if self.pod.running and time.monotonic() >= next_probe_s:
                next_probe_s = time.monotonic() + probe["periodSeconds"]
                passes = get(address, port, path, probe["timeoutSeconds"]) is not None
                self._failures = 0 if passes else self._failures + 1
            elif not (self.pod.running or self._deleted.is_set()):
                # One that has not been ready since its start stays so until a probe passes.
                self._failures = probe["failureThreshold"]
                self.failed = starts > 0 and not self.group.restarts_in_place
                if not self.failed:
                    self.pod.start(*self._start)
                    starts += 1
                    next_probe_s = self.pod.started_s + probe["initialDelaySeconds"]
            self._ended.wait(_LISTED_EVERY_S)

    def delete(self, grace_period_s: float | None = None) -> float:
        """Delete the pod as the API server asks for it; returns how long its end took.

        Not ready from now on, SIGTERM, and SIGKILL after the grace period.
        """
        self._deleted.set()
        limit_s = self.group.grace_period_s if grace_period_s is None else grace_period_s
        took_s = self.pod.terminate(limit_s)
        self._ended.set()
        self.join()
        self.pod.remove()
        return took_s
