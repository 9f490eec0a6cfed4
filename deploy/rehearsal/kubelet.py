"""The kubelet's part in one pod's life: start, restart, and readiness probes."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from .pods import Pod
from .translation import AGENT_PORT, Group

SERVE_PORT = 8000
# How long a container's end may go unnoticed: the kubelet lists its containers every second.
_LISTED_EVERY_S = 1.0
# Before the second and later restarts; the first is at once.
_BACK_OFF_S = 10.0
_DEFAULT_PERIOD_S, _DEFAULT_DELAY_S = 5, 10


@dataclass(frozen=True)
class ReadinessProbe:
    """When to probe, and after how many failures a pod is no longer ready.

    `path` is None for the operator's own probe.
    """

    delay_s: float
    period_s: float
    timeout_s: float
    failures: int
    port: int = AGENT_PORT
    path: str | None = None

    @classmethod
    def of(cls, group: Group) -> "ReadinessProbe":
        """The template's `httpGet`, else the one that the operator adds."""
        own = group.container.get("readinessProbe")
        if own is None or "httpGet" not in own:
            failures = 10 if group.is_head else 1
            return cls(_DEFAULT_DELAY_S, _DEFAULT_PERIOD_S, 5 if group.is_head else 2, failures)
        port = own["httpGet"]["port"]
        ports = {one.get("name"): one["containerPort"] for one in group.container.get("ports", [])}
        return cls(
            own.get("initialDelaySeconds", 0),
            own.get("periodSeconds", 10),
            own.get("timeoutSeconds", 1),
            own.get("failureThreshold", 3),
            ports[port] if isinstance(port, str) else port,
            own["httpGet"].get("path", "/"),
        )

    def passes(self, address: str, is_head: bool) -> bool:
        """Probe once."""
        if self.path is not None:
            return get(address, self.port, self.path, self.timeout_s) is not None
        if is_head:
            # For Ray 2.53 and newer.
            return get(address, AGENT_PORT, "/api/healthz", self.timeout_s) is not None
        return raylet_alive(address) and "success" in (
            get(address, SERVE_PORT, "/-/healthz", self.timeout_s) or ""
        )


def raylet_alive(address: str) -> bool:
    """The first half of the operator's probe of workers."""
    return "success" in (get(address, AGENT_PORT, "/api/local_raylet_healthz", 2) or "")


def get(address: str, port: int, path: str, timeout_s: float) -> str | None:
    """The text of a successful reply, else None; as `wget --tries 1 -q -O-`."""
    try:
        reply = httpx.get(f"http://{address}:{port}{path}", timeout=timeout_s)
    except httpx.HTTPError:
        return None
    return reply.text if reply.is_success else None


class Kubelet(threading.Thread):
    """Runs one pod until it is deleted, or failed where its template says never to restart.

    `ready` is what the endpoints of services follow; a pod that is being deleted is none.
    """

    def __init__(self, pod: Pod, group: Group, args: str, environment: Mapping[str, str]) -> None:
        super().__init__(name=f"kubelet-{pod.name}", daemon=True)
        self.pod = pod
        self.group = group
        self.failed = False
        self.restarts = 0
        self._args, self._environment = args, environment
        self._probe = ReadinessProbe.of(group)
        self._deleted = threading.Event()
        self._ended = threading.Event()
        self._passed = False

    @property
    def ready(self) -> bool:
        """Whether the last probe passed, and nobody deletes the pod."""
        return self._passed and not self._deleted.is_set()

    def run(self) -> None:
        """Start the container, and look after it."""
        self.pod.start(self._args, self._environment)
        failures, next_probe_s = 0, self.pod.started_s + self._probe.delay_s
        while not self._ended.wait(_LISTED_EVERY_S):
            if self._deleted.is_set():
                continue
            if not self.pod.running:
                self._passed = False
                if not self.group.restarts_in_place:
                    self.failed = True
                    continue
                if self.restarts and time.monotonic() < self.pod.started_s + _BACK_OFF_S:
                    continue
                self.restarts += 1
                self.pod.start(self._args, self._environment)
                failures, next_probe_s = 0, self.pod.started_s + self._probe.delay_s
            if time.monotonic() >= next_probe_s:
                next_probe_s = time.monotonic() + self._probe.period_s
                if self._probe.passes(self.pod.address, self.group.is_head):
                    failures, self._passed = 0, True
                else:
                    failures += 1
                    self._passed = self._passed and failures < self._probe.failures

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
