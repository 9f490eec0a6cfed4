"""The operator's loop over one RayService: pods, serve configuration, services, upgrades.

Follows `ray-operator/controllers/ray/rayservice_controller.go` of KubeRay v1.7.0, and for its calls
of a head `ray-operator/controllers/ray/utils/dashboardclient/dashboard_httpclient.go`.
"""

import itertools
import random
import string
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from .kubelet import Kubelet, raylet_alive
from .manifests import Overlay
from .pods import Network, Pod
from .proxy import Proxy
from .serve_config import Config
from .translation import (
    GCS_PORT,
    Group,
    auth_token,
    autoscaler,
    container_args,
    environment,
    groups,
    has_head_service,
    secret_mounts,
)

# All are the operator's own. It gives up on a call after 2 s, and tries again at its next round.
_PERIOD_S = 2.0
_CALL_TIMEOUT_S = 2
_DASHBOARD_PORT = 8265
_DEFAULT_DELETION_DELAY_S = 60


def running(details: dict[str, Any]) -> bool:
    """Whether there is an application, and all are RUNNING: what the operator calls ready."""
    applications = details.get("applications") or {}
    return bool(applications) and all(app["status"] == "RUNNING" for app in applications.values())


class Cluster:
    """One RayCluster of the RayService; its pods are made by `reconcile`, one after the other."""

    def __init__(self, name: str, overlay: Overlay, network: Network) -> None:
        self.name = name
        self.kubelets: list[Kubelet] = []
        # Why the head refused a configuration; empty once it has accepted one.
        self.refusal = ""
        self._accepted: Config | None = None
        self._overlay, self._network = overlay, network
        self._groups = groups(overlay)
        self._numbers = itertools.count()
        self._token = auth_token(overlay, name)
        self._head_fqdn = f"{name}-head-svc.{overlay.namespace}.svc.cluster.local"
        self._head_has_service = has_head_service(overlay)
        if self._head_has_service:
            address = network.add_virtual()
            network.point(self._head_fqdn, address)
            # The only port that workers ask the service for.
            Proxy(self._head_addresses, GCS_PORT, address, GCS_PORT).start()

    @property
    def head(self) -> Kubelet | None:
        return next((one for one in self.kubelets if one.group.is_head), None)

    @property
    def workers(self) -> list[Kubelet]:
        return [one for one in self.kubelets if not one.group.is_head]

    @property
    def complete(self) -> bool:
        """Whether all pods run, and the head is ready.

        A worker without a replica has no proxy, and so is never ready; that is for the scenarios.
        """
        return (
            len(self.kubelets) == sum(group.pods for group in self._groups)
            and all(one.pod.running for one in self.kubelets)
            and self.head is not None
            and self.head.ready
        )

    def details(self) -> dict[str, Any]:
        """All that Serve tells; empty where the head isn't ready or doesn't answer."""
        reply = self._call("GET", params={"api_type": "declarative"})
        found: dict[str, Any] = reply.json() if reply is not None and reply.is_success else {}
        return found

    def reconcile(self, config: Config) -> None:
        """Have the pods that there are to be, and this configuration on the head."""
        self._reconcile_pods()
        details = self.details()
        if not details or (details["applications"] and self._accepted == config):
            return
        reply = self._call("PUT", json=config)
        if reply is not None and reply.is_success:
            self._accepted, self.refusal = config, ""
        elif reply is not None and reply.status_code == httpx.codes.BAD_REQUEST:
            self.refusal = reply.text

    def _call(self, method: str, **arguments: Any) -> httpx.Response | None:
        """Call Serve's REST interface; None where the head isn't ready, or not in time."""
        head = self.head
        if head is None or not head.ready:
            return None
        url = f"http://{head.pod.address}:{_DASHBOARD_PORT}/api/serve/applications/"
        headers = {"x-ray-authorization": f"Bearer {self._token}"} if self._token else {}
        try:
            return httpx.request(method, url, headers=headers, timeout=_CALL_TIMEOUT_S, **arguments)
        except httpx.HTTPError:
            return None

    def _reconcile_pods(self) -> None:
        """Replace failed pods, and make one that is missing once all others have started.

        On a cluster they start together; here they would take each other's processor, and Ray
        gives a head 30 seconds.
        """
        for kubelet in [one for one in self.kubelets if one.failed]:
            self.delete(kubelet)
        for one in self.kubelets:
            if not (one.ready if one.group.is_head else raylet_alive(one.pod.address)):
                return
        there = Counter(one.group.name for one in self.kubelets)
        missing = [group for group in self._groups if there[group.name] < group.pods]
        if missing:
            self._create(missing[0])

    def _create(self, group: Group) -> None:
        name = f"{self.name}-{'head' if group.is_head else group.name}-{next(self._numbers)}"
        pod = Pod(name, self._network)
        if group.is_head and not self._head_has_service:
            self._network.point(self._head_fqdn, pod.address)
        for path, secret in secret_mounts(group).items():
            pod.mount(path, self._overlay.files.get(secret, {}))
        args = container_args(self._overlay, group, self._head_fqdn)
        variables = environment(self._overlay, group, self.name, name, self._head_fqdn)
        beside = autoscaler(self._overlay) if group.is_head else []
        self.kubelets.append(Kubelet(pod, group, args, variables, beside))
        self.kubelets[-1].start()

    def delete(self, kubelet: Kubelet, grace_period_s: float | None = None) -> float:
        """Delete a pod; it counts until it has ended, as the operator counts it."""
        took_s = kubelet.delete(grace_period_s)
        self.kubelets.remove(kubelet)
        return took_s

    def delete_all(self, grace_period_s: float | None = None) -> None:
        with ThreadPoolExecutor() as threads:
            for kubelet in list(self.kubelets):
                threads.submit(self.delete, kubelet, grace_period_s)

    def _head_addresses(self) -> list[str]:
        """What the head's service forwards to, whether the pod is ready or not."""
        head = self.head
        return [head.pod.address] if head is not None and head.pod.running else []


class Operator(threading.Thread):
    """Keeps the RayService's active cluster, and the pending one while there is an upgrade.

    `config` is the serve configuration that the RayService asks for now; setting it is what
    `kubectl apply` of another `serveConfigV2` does.
    """

    def __init__(self, overlay: Overlay, network: Network) -> None:
        super().__init__(name="operator", daemon=True)
        self.config: Config = overlay.serve_config
        self._overlay, self._network = overlay, network
        self.active = self._new_cluster()
        self.pending: Cluster | None = None
        self._stopped = threading.Event()
        self.deletion_delay_s = float(
            overlay.spec.get("rayClusterDeletionDelaySeconds", _DEFAULT_DELETION_DELAY_S)
        )

    def endpoints(self) -> list[str]:
        """Addresses of the pods that the service's selector matches, and that are ready."""
        return [one.pod.address for one in self.active.workers if one.ready]

    def run(self) -> None:
        while not self._stopped.wait(_PERIOD_S):
            for cluster in filter(None, (self.active, self.pending)):
                cluster.reconcile(self.config)
            if self.pending and running(self.pending.details()):
                # The services' selectors are rewritten: from now on, new connections go there.
                self.active, self.pending = self.pending, None

    def upgrade(self) -> Cluster:
        """Start a pending cluster, as a change of `rayClusterConfig` does; returns the old one.

        The old one is still active: it is left when all applications of the new one run.
        """
        old, self.pending = self.active, self._new_cluster()
        return old

    def stop(self) -> None:
        self._stopped.set()
        self.join()
        for cluster in filter(None, (self.active, self.pending)):
            cluster.delete_all(grace_period_s=0)

    def _new_cluster(self) -> Cluster:
        suffix = "".join(random.choices(string.ascii_lowercase, k=5))
        name = f"{self._overlay.ray_service['metadata']['name']}-{suffix}"
        return Cluster(name, self._overlay, self._network)
