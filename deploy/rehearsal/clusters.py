"""The pods of one RayCluster, as the operator keeps them."""

import itertools
import threading
from collections.abc import Mapping
from typing import Any

from .autoscaler import Autoscaler
from .dashboard import Dashboard
from .kubelet import Kubelet, raylet_alive
from .network import Network
from .overlay import Overlay
from .pods import Pod
from .serve_config import Config
from .service import Service
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


class Names:
    """What the cluster's DNS would tell: written into the /etc/hosts of every pod."""

    def __init__(self) -> None:
        self._addresses: dict[str, str] = {}
        self._pods: list[Pod] = []
        self._lock = threading.Lock()

    def add(self, pod: Pod) -> None:
        """Have a pod know all names, its own among them."""
        with self._lock:
            self._pods.append(pod)
            self._write()

    def forget(self, pod: Pod) -> None:
        """A pod is no more."""
        with self._lock:
            self._pods.remove(pod)

    def point(self, name: str, address: str) -> None:
        """Give a name an address, or another one."""
        with self._lock:
            self._addresses[name] = address
            self._write()

    def _write(self) -> None:
        shared = [f"{address} {name}" for name, address in self._addresses.items()]
        for pod in self._pods:
            lines = ["127.0.0.1 localhost", f"{pod.address} {pod.name}", *shared, ""]
            pod.hosts.write_text("\n".join(lines))  # In place: the pod has this very file.


class Cluster:
    """One RayCluster of the RayService; its pods are made by `reconcile`, one after the other."""

    def __init__(self, name: str, overlay: Overlay, network: Network, names: Names) -> None:
        self.name = name
        self.kubelets: list[Kubelet] = []
        self._overlay, self._network, self._names = overlay, network, names
        self._groups = groups(overlay.ray_service)
        self._wanted = {group.name: group.pods for group in self._groups}
        self._autoscaler = Autoscaler()
        self._numbers = itertools.count()
        self.head_fqdn = f"{name}-head-svc.{overlay.namespace}.svc.cluster.local"
        self._head_service = head_service(overlay.ray_service)
        if self._head_service is not None:
            address = network.add_virtual()
            names.point(self.head_fqdn, address)
            # The only port that workers ask the service for.
            Service(self._head_addresses, GCS_PORT, address, GCS_PORT).start()

    @property
    def head(self) -> Kubelet | None:
        """The head's pod, where it has been made."""
        return next((one for one in self.kubelets if one.group.is_head), None)

    @property
    def workers(self) -> list[Kubelet]:
        """The workers' pods."""
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
            len(self.kubelets) == sum(self._wanted.values())
            and all(one.pod.running for one in self.kubelets)
            and self.dashboard is not None
        )

    def group_of(self, address: str) -> Group | None:
        """The group of the pod with this address."""
        found = (one.group for one in self.kubelets if one.pod.address == address)
        return next(found, None)

    def reconcile(self) -> None:
        """Replace failed pods, and make one that is missing once all others have started.

        On a cluster they start together; here they would take each other's processor, and Ray
        gives a head 30 seconds.
        """
        for one in list(self.kubelets):
            if one.failed:
                self.delete(one, grace_period_s=0)
        for one in self.kubelets:
            if not (one.ready if one.group.is_head else raylet_alive(one.pod.address)):
                return
        for group in self._groups:
            if (
                sum(one.group.name == group.name for one in self.kubelets)
                < self._wanted[group.name]
            ):
                self._create(group)
                return

    def grow(self, config: Config, applications: Mapping[str, Any]) -> None:
        """Want one more worker where the autoscaler would ask for it."""
        if not self.complete:
            return
        by_name = {group.name: (group, self._wanted[group.name]) for group in self._groups}
        name = self._autoscaler.group_to_grow(by_name, config, applications)
        if name is not None:
            self._wanted[name] += 1

    def delete(self, kubelet: Kubelet, grace_period_s: float | None = None) -> float:
        """Delete a pod; it counts until it has ended, as the operator counts it."""
        took_s = kubelet.delete(grace_period_s)
        self.kubelets.remove(kubelet)
        self._names.forget(kubelet.pod)
        return took_s

    def delete_all(self, grace_period_s: float | None = None) -> None:
        """Delete the whole cluster, all pods at once."""
        threads = [
            threading.Thread(target=self.delete, args=(one, grace_period_s))
            for one in list(self.kubelets)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

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
            self._names.point(self.head_fqdn, pod.address)
        self._names.add(pod)
        for path, secret in secret_mounts(group).items():
            pod.mount(path, self._overlay.files.get(secret, {}))
        fields = {
            "metadata.name": name,
            "metadata.namespace": self._overlay.namespace,
            "metadata.uid": name,
            "status.podIP": pod.address,
            "spec.nodeName": "rehearsal",
            "status.hostIP": "127.0.0.1",
        }
        kubelet = Kubelet(
            pod,
            group,
            container_args(self._overlay.ray_service, group, self.head_fqdn),
            environment(self._overlay, group, self.name, fields, self.head_fqdn),
        )
        self.kubelets.append(kubelet)
        kubelet.start()
