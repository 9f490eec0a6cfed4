"""The operator's loop over one RayService: pods, serve configuration, services, upgrades.

Follows `ray-operator/controllers/ray/rayservice_controller.go` of KubeRay v1.7.0.
"""

import random
import string
import threading

from .cluster import Cluster
from .dashboard import Refused, running
from .kubelet import SERVE_PORT, get
from .manifests import Overlay
from .pods import Network
from .serve_config import Config

# Both are the operator's own.
_PERIOD_S = 2.0
_DEFAULT_DELETION_DELAY_S = 60


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

    def upgrade(self) -> Cluster:
        """Start a pending cluster, as a change of `rayClusterConfig` does; returns the old one.

        The old one is still active: it is left when all applications of the new one run.
        """
        old, self.pending = self.active, self._new_cluster()
        return old

    def stop(self) -> None:
        """End the loop; the pods are left."""
        self._stopped.set()
        self.join()

    def _configure(self, cluster: Cluster) -> None:
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

    def _new_cluster(self) -> Cluster:
        suffix = "".join(random.choices(string.ascii_lowercase, k=5))
        name = f"{self._overlay.ray_service['metadata']['name']}-{suffix}"
        return Cluster(name, self._overlay, self._network)
