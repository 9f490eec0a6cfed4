"""The operator's loop over one RayService: pods, serve configuration, services, upgrades.

Follows KubeRay v1.7.0: `ray-operator/controllers/ray/rayservice_controller.go` for the loop, and
`ray-operator/controllers/ray/utils/dashboardclient/dashboard_httpclient.go` for its calls.
"""

import random
import string
import threading
from typing import TYPE_CHECKING, Any

import httpx

from .kubelet import SERVE_PORT, get
from .manifests import Overlay
from .pods import Network
from .serve_config import Config

if TYPE_CHECKING:
    from .cluster import Cluster

# All are the operator's own. It gives up on a call after 2 s, and tries again at its next round.
_PERIOD_S = 2.0
_CALL_TIMEOUT_S = 2
_SUFFIX_LENGTH = 5
_DASHBOARD_PORT = 8265
_DEFAULT_DELETION_DELAY_S = 60


class Refused(Exception):
    """The head refused a configuration; the message is its answer."""


class Dashboard:
    """Serve's REST interface on a head; `token` is the cluster's, if it has one."""

    def __init__(self, address: str, token: str | None) -> None:
        self._url = f"http://{address}:{_DASHBOARD_PORT}/api/serve/applications/"
        self._headers = {} if token is None else {"x-ray-authorization": f"Bearer {token}"}

    def details(self) -> dict[str, Any]:
        """All that Serve tells; empty where the head doesn't answer."""
        try:
            reply = httpx.get(
                self._url,
                params={"api_type": "declarative"},
                headers=self._headers,
                timeout=_CALL_TIMEOUT_S,
            )
            reply.raise_for_status()
            details: dict[str, Any] = reply.json()
        except (httpx.HTTPError, ValueError):
            return {}
        return details

    def put(self, config: Config) -> bool:
        """Send the configuration; False where the head doesn't answer in time.

        Raises:
            Refused: the head says that it is wrong.
        """
        try:
            reply = httpx.put(
                self._url, json=config, headers=self._headers, timeout=_CALL_TIMEOUT_S
            )
        except httpx.HTTPError:
            return False
        if reply.status_code == 400:
            raise Refused(reply.text)
        return reply.is_success


def running(details: dict[str, Any]) -> bool:
    """Whether there is an application, and all are RUNNING: what the operator calls ready."""
    applications = details.get("applications") or {}
    return bool(applications) and all(app["status"] == "RUNNING" for app in applications.values())


class Controller(threading.Thread):
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
        # What the head of a cluster has accepted last, by cluster.
        self._sent: dict[str, Config] = {}
        self.refusal = ""
        self._head_serves = False
        self._stopped = threading.Event()
        self.deletion_delay_s = float(
            overlay.spec.get("rayClusterDeletionDelaySeconds", _DEFAULT_DELETION_DELAY_S)
        )

    def endpoints(self) -> list[str]:
        """Addresses of the pods that the service's selector matches, and that are ready."""
        head = self.active.head
        pods = [*self.active.workers, *([head] if head and self._head_serves else [])]
        return [one.pod.address for one in pods if one.ready]

    def run(self) -> None:
        while not self._stopped.wait(_PERIOD_S):
            head = self.active.head
            self._head_serves = (
                head is not None
                and not self._overlay.spec.get("excludeHeadPodFromServeSvc")
                and get(head.pod.address, SERVE_PORT, "/-/healthz", 2) is not None
            )
            for cluster in filter(None, (self.active, self.pending)):
                cluster.reconcile()
                self._configure(cluster)
            dashboard = self.pending.dashboard if self.pending else None
            if self.pending and dashboard and running(dashboard.details()):
                # The services' selectors are rewritten: from now on, new connections go there.
                self.active, self.pending = self.pending, None

    def upgrade(self) -> "Cluster":
        """Start a pending cluster, as a change of `rayClusterConfig` does; returns the old one.

        The old one is still active: it is left when all applications of the new one run.
        """
        old, self.pending = self.active, self._new_cluster()
        return old

    def stop(self) -> None:
        """End the loop; the pods are left."""
        self._stopped.set()
        self.join()

    def _configure(self, cluster: "Cluster") -> None:
        """PUT the configuration where it isn't what this cluster accepted last."""
        dashboard = cluster.dashboard
        details = dashboard.details() if dashboard else {}
        if dashboard is None or not details:
            return
        config = self.config
        if details["applications"] and self._sent.get(cluster.name) == config:
            return
        try:
            if dashboard.put(config):
                self._sent[cluster.name] = config
                self.refusal = ""
        except Refused as refused:
            self.refusal = str(refused)

    def _new_cluster(self) -> "Cluster":
        from .cluster import Cluster

        suffix = "".join(random.choices(string.ascii_lowercase, k=_SUFFIX_LENGTH))
        name = f"{self._overlay.ray_service['metadata']['name']}-{suffix}"
        return Cluster(name, self._overlay, self._network)
