"""The pods of one RayCluster, as the operator keeps them."""

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from .dashboard import Dashboard
from .kubelet import Kubelet, raylet_alive
from .manifests import Overlay
from .pods import Network, Pod
from .proxy import Proxy
from .translation import (
    GCS_PORT,
    Group,
    auth_token,
    container_args,
    environment,
    groups,
    head_service,
    secret_mounts,
)


class Cluster:
    """One RayCluster of the RayService; its pods are made by `reconcile`, one after the other."""

    def __init__(self, name: str, overlay: Overlay, network: Network) -> None:
        self.name = name
        self.kubelets: list[Kubelet] = []
        self._overlay, self._network = overlay, network
        self._groups = groups(overlay)
        self._numbers = itertools.count()
        self.head_fqdn = f"{name}-head-svc.{overlay.namespace}.svc.cluster.local"
        self._head_service = head_service(overlay)
        if self._head_service is not None:
            address = network.add_virtual()
            network.point(self.head_fqdn, address)
            # The only port that workers ask the service for.
            Proxy(self._head_addresses, GCS_PORT, address, GCS_PORT).start()

    @property
    def head(self) -> Kubelet | None:
        return next((one for one in self.kubelets if one.group.is_head), None)

    @property
    def workers(self) -> list[Kubelet]:
        return [one for one in self.kubelets if not one.group.is_head]

    @property
    def dashboard(self) -> Dashboard | None:
        """The head's, where it is ready."""
        if self.head is None or not self.head.ready:
            return None
        return Dashboard(self.head.pod.address, auth_token(self._overlay, self.name))

    @property
    def complete(self) -> bool:
        """Whether all pods run, and the head is ready.

        A worker without a replica has no proxy, and so is never ready; that is for the scenarios.
        """
        return (
            len(self.kubelets) == sum(group.pods for group in self._groups)
            and all(one.pod.running for one in self.kubelets)
            and self.dashboard is not None
        )

    def reconcile(self) -> None:
        """Replace failed pods, and make one that is missing once all others have started.

        On a cluster they start together; here they would take each other's processor, and Ray
        gives a head 30 seconds.
        """
        for kubelet in list(self.kubelets):
            if kubelet.failed:
                self.delete(kubelet, grace_period_s=0)
        for one in self.kubelets:
            if not (one.ready if one.group.is_head else raylet_alive(one.pod.address)):
                return
        there = Counter(one.group.name for one in self.kubelets)
        for group in self._groups:
            if there[group.name] < group.pods:
                self._create(group)
                return

    def delete(self, kubelet: Kubelet, grace_period_s: float | None = None) -> float:
        """Delete a pod; it counts until it has ended, as the operator counts it."""
        took_s = kubelet.delete(grace_period_s)
        self.kubelets.remove(kubelet)
        return took_s

    def delete_all(self, grace_period_s: float | None = None) -> None:
        """Delete the whole cluster, all pods at once."""
        with ThreadPoolExecutor() as threads:
            for kubelet in list(self.kubelets):
                threads.submit(self.delete, kubelet, grace_period_s)

    def _head_addresses(self) -> list[str]:
        """What the head's service forwards to: the pod while it runs, or only while it is ready."""
        head, unready = self.head, bool((self._head_service or {}).get("publishNotReadyAddresses"))
        if head is None or not (head.ready or (unready and head.pod.running)):
            return []
        return [head.pod.address]

    def _create(self, group: Group) -> None:
        name = f"{self.name}-{'head' if group.is_head else group.name}-{next(self._numbers)}"
        pod = Pod(name, self._network)
        if group.is_head and self._head_service is None:
            self._network.point(self.head_fqdn, pod.address)
        for path, secret in secret_mounts(group).items():
            pod.mount(path, self._overlay.files.get(secret, {}))
        kubelet = Kubelet(
            pod,
            group,
            container_args(self._overlay, group, self.head_fqdn),
            environment(self._overlay, group, self.name, name, self.head_fqdn),
        )
        self.kubelets.append(kubelet)
        kubelet.start()
