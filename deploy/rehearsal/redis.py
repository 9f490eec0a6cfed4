"""The Redis that a fault-tolerant head keeps its state in, as a pod of its own."""

import shutil
from copy import deepcopy
from dataclasses import replace

from .clusters import Names
from .controller import wait_until
from .network import Network
from .overlay import Overlay
from .pods import Pod
from .translation import redis_address


def start(overlay: Overlay, network: Network, names: Names) -> str:
    """Start it where the overlay has one; returns why there is none, if so.

    The password is the one that the head gets.
    """
    address = redis_address(overlay.ray_service)
    if address is None:
        return "the overlay has no fault tolerance with Redis"
    if shutil.which("redis-server") is None:
        return "needs redis-server (Debian: redis-server)"
    host, port = address
    pod = Pod("redis", network)
    names.add(pod)
    names.point(host, pod.address)
    password = _password(overlay)
    # Protected mode would refuse other pods where there is no password.
    options = ["--port", str(port), "--save", "''", "--protected-mode", "no", "--dir", "/tmp"]
    if password:
        options += ["--requirepass", "$REDIS_PASSWORD"]
    pod.start(" ".join(["exec redis-server", *options]), {"REDIS_PASSWORD": password})
    wait_until(lambda: "Ready to accept" in pod.tail(), 20, "the start of Redis")
    return ""


def without_fault_tolerance(overlay: Overlay) -> Overlay:
    """The overlay, but the head keeps its state in memory."""
    manifests = deepcopy(overlay.manifests)
    for one in manifests:
        if one["kind"] == "RayService":
            one["spec"]["rayClusterConfig"].pop("gcsFaultToleranceOptions", None)
    return replace(overlay, manifests=manifests)


def _password(overlay: Overlay) -> str:
    options = overlay.ray_service["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    password = options.get("redisPassword", {})
    if "valueFrom" in password:
        return overlay.value_from(password["valueFrom"], {}) or ""
    return str(password.get("value", ""))
