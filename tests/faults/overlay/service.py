"""The service that an overlay describes, for scenarios: pods, operator and kube-proxy."""

import hashlib
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import httpx

from loadtests.namespaces import SCRATCH

from ..stage import Stage
from .manifests import Overlay, OverlayError
from .operator import Cluster, Operator, running
from .pods import Network, Pod, mounted_at
from .proxy import Proxy
from .serve_config import use_fixed_steps, use_one_replica, variants
from .translation import groups, redis_options, secret_mounts

# A start of all pods, one after the other, on a busy machine.
START_LIMIT_S = 300.0
_STEP_S = 0.04


class OverlayService:
    """A RayService under load; only one a process, in namespaces of its own.

    Stopped and started again, it is another cluster at the same address. `no_redis` says why its
    head has no Redis, if so.
    """

    operator: Operator

    def __init__(self, overlay: Overlay, say: Callable[[str], None]) -> None:
        self._overlay, self._say = overlay, say
        overlay.use_one_pod()
        use_one_replica(overlay.serve_config)
        use_fixed_steps(overlay.serve_config, _STEP_S)
        self.variants = variants(overlay.serve_config)
        self.key = add_key(overlay)
        self._network = Network()
        self.no_redis = self._start_redis()
        if self.no_redis:
            overlay.cluster.pop("gcsFaultToleranceOptions", None)
        self.proxy = Proxy(lambda: self.operator.endpoints())
        self.proxy.start()
        self.url = self.proxy.url
        self.started_after_s = 0.0

    def start(self) -> None:
        self.operator = Operator(self._overlay, self._network)
        began_s = time.monotonic()
        self.operator.start()
        while not self.ready():
            if time.monotonic() > began_s + START_LIMIT_S:
                for one in self.cluster.kubelets:
                    self._say(f"--- {one.pod.name}, ready: {one.ready}\n{one.pod.tail()}")
                raise TimeoutError(f"{self._overlay.name} is not warm after {START_LIMIT_S:.0f} s")
            time.sleep(0.5)
        self.started_after_s = time.monotonic() - began_s

    def stop(self) -> None:
        self.operator.stop()

    @property
    def cluster(self) -> Cluster:
        return self.operator.active

    def ready(self) -> bool:
        """Whether all pods run, those with replicas are ready, and every variant is warm."""
        details = self.cluster.details()
        if not (self.cluster.complete and running(details)):
            return False
        used = {one["node_ip"] for found in _replicas(details).values() for one in found}
        if not used <= {one.pod.address for one in self.cluster.kubelets if one.ready}:
            return False
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def status(self) -> str:
        apps = self.cluster.details().get("applications") or {}
        return next((str(app["status"]) for app in apps.values()), "")

    def replicas(self) -> dict[str, list[dict[str, Any]]]:
        """Each deployment's replicas that run; empty where the head doesn't answer."""
        return _replicas(self.cluster.details())

    def replica_ids(self) -> dict[str, set[str]]:
        found = self.replicas().items()
        return {name: {one["replica_id"] for one in replicas} for name, replicas in found}

    def _start_redis(self) -> str:
        """Start the Redis that the head keeps its state in; returns why there is none, if so."""
        options = redis_options(self._overlay)
        if not options:
            return "the overlay has no fault tolerance with Redis"
        if shutil.which("redis-server") is None:
            return "needs redis-server (Debian: redis-server)"
        host, _, port = options["redisAddress"].removeprefix("redis://").partition(":")
        pod = Pod("redis", self._network)
        self._network.point(host, pod.address)
        password = [{"name": "PASSWORD", **options.get("redisPassword", {"value": ""})}]
        # Protected mode would refuse other pods where there is no password. The head waits for it.
        pod.start(
            f"exec redis-server --port {port or 6379} --save '' --protected-mode no --dir /tmp "
            '--requirepass "$PASSWORD"',
            self._overlay.environment({}, password),
        )
        return ""


OverlayStage = Stage[OverlayService]


def _replicas(details: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [one for one in deployment["replicas"] if one["state"] == "RUNNING"]
        for app in details.get("applications", {}).values()
        for name, deployment in app["deployments"].items()
    }


def add_key(overlay: Overlay) -> str | None:
    """Put a new API key into the Secret that the overlay mounts, where it requires keys.

    The limit on a key's requests goes: one key stands for many clients.
    """
    args = overlay.serve_config["applications"][0]["args"]
    if "api_keys_file" not in args:
        return None
    file = PurePosixPath(args["api_keys_file"])
    secret = secret_mounts(groups(overlay)[0]).get(str(file.parent))
    if secret is None:
        raise OverlayError(f"{overlay.name}: api_keys_file {str(file)!r} is in no mounted Secret")
    key = f"dsd-{secrets.token_hex(16)}"
    digest = hashlib.sha256(key.encode()).hexdigest()
    overlay.files[secret] = {file.name: f"faults {digest}\n"}
    args |= {"api_keys_file": mounted_at(str(file)), "max_requests_per_key": None}
    return key


def keep_logs(folder: Path) -> None:
    """Copy the pods' output, and the logs of their Ray."""
    for log in [*SCRATCH.glob("*/output.log"), *SCRATCH.glob("*/tmp/ray/session_2*/logs/**/*.*")]:
        if log.is_file():
            target = folder / log.relative_to(SCRATCH)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(log, target)
