"""The operator's loop over one RayService: pods, serve configuration, services, upgrades."""

import random
import string
import threading
import time
from collections.abc import Callable

from .clusters import Cluster, Names
from .dashboard import Refused, running
from .kubelet import SERVE_PORT, get
from .network import Network
from .overlay import Overlay
from .serve_config import Config

# The operator's own.
_PERIOD_S = 2.0
_SUFFIX_LENGTH = 5


class Controller(threading.Thread):
    """Holds the RayService's active cluster, and the pending one while there is an upgrade.

    `config` is the serve configuration that the RayService asks for now; setting it is what
    `kubectl apply` of another `serveConfigV2` does.
    """

    def __init__(self, overlay: Overlay, config: Config, network: Network, names: Names) -> None:
        super().__init__(name="operator", daemon=True)
        self.config = config
        self._overlay, self._network, self._names = overlay, network, names
        self.active = self._new_cluster()
        self.pending: Cluster | None = None
        # What the head of a cluster has accepted last, by cluster.
        self._sent: dict[str, Config] = {}
        self.refusal = ""
        self._head_serves = False
        self._stopped = threading.Event()

    def endpoints(self) -> list[str]:
        """Addresses of the pods that the service's selector matches, and that are ready."""
        pods = [*self.active.workers, *([self.active.head] if self._head_serves else [])]
        return [one.pod.address for one in pods if one is not None and one.ready]

    @property
    def _head_excluded(self) -> bool:
        return bool(self._overlay.ray_service["spec"].get("excludeHeadPodFromServeSvc"))

    @property
    def deletion_delay_s(self) -> float:
        """How long the old cluster is kept after an upgrade."""
        return float(self._overlay.ray_service["spec"].get("rayClusterDeletionDelaySeconds", 60))

    def run(self) -> None:
        """Reconcile every two seconds."""
        while not self._stopped.wait(_PERIOD_S):
            self._head_serves = not self._head_excluded and self._head_proxy_answers()
            for cluster in filter(None, (self.active, self.pending)):
                cluster.reconcile()
                self._configure(cluster)
            if self.pending is not None and self._serving(self.pending):
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

    def _head_proxy_answers(self) -> bool:
        """What puts the head behind the service, too, where it may be there."""
        head = self.active.head
        return head is not None and get(head.pod.address, SERVE_PORT, "/-/healthz", 2) is not None

    def _configure(self, cluster: Cluster) -> None:
        """PUT the configuration where it isn't what this cluster accepted last."""
        dashboard = cluster.dashboard
        if dashboard is None:
            return
        applications = dashboard.applications()
        if applications is None:
            return
        config = self.config
        cluster.grow(config, applications)
        if applications and self._sent.get(cluster.name) == config:
            return
        try:
            if dashboard.put(config):
                self._sent[cluster.name] = config
                self.refusal = ""
        except Refused as refused:
            self.refusal = str(refused)

    def _serving(self, cluster: Cluster) -> bool:
        dashboard = cluster.dashboard
        return dashboard is not None and running(dashboard.applications())

    def _new_cluster(self) -> Cluster:
        suffix = "".join(random.choices(string.ascii_lowercase, k=_SUFFIX_LENGTH))
        name = f"{self._overlay.ray_service['metadata']['name']}-{suffix}"
        return Cluster(name, self._overlay, self._network, self._names)


def wait_until(
    condition: Callable[[], bool], limit_s: float, what: str, poll_s: float = 0.25
) -> float:
    """Poll to a deadline; returns how long it took.

    Raises:
        TimeoutError: names `what` didn't happen.
    """
    began_s = time.monotonic()
    while not condition():
        if time.monotonic() - began_s > limit_s:
            raise TimeoutError(f"{what} did not happen within {limit_s:g} s")
        time.sleep(poll_s)
    return time.monotonic() - began_s
