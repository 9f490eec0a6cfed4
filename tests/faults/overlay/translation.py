"""The operator's part: a RayService's pods, their `ray start` lines and their environment.

Restates KubeRay v1.7.0, so far as overlays here use it, down to the double blanks:

- `ray-operator/controllers/ray/common/pod.go`: the container's command (`BuildPod`,
  `generateRayStartCommand`, `convertParamMap`), its parameters (`setMissingRayStartParams`), its
  environment, and the restart policy
- `ray-operator/controllers/ray/common/service.go`: when the head's service has an address

Another version of KubeRay means reading these again, and those that `controller` and `kubelet`
name.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from .manifests import Manifest, Overlay, OverlayError

GCS_PORT = 6379
AGENT_PORT = 52365
HEAD_GROUP = "headgroup"
# Their values stay written out, where other booleans become bare flags.
_KEEP_BOOLEAN = ("log-color", "include-dashboard", "include-log-monitor")
# What the operator sets for clusters that belong to a RayService.
_SERVICE_ENVIRONMENT = {
    "RAY_timeout_ms_task_wait_for_death_info": "0",
    "RAY_gcs_server_request_timeout_seconds": "5",
    "RAY_SERVE_KV_TIMEOUT_S": "5",
}
_FACTORS = {"m": Decimal("0.001"), "": Decimal(1)}
_FACTORS |= {letter: Decimal(10 ** (3 * i)) for i, letter in enumerate("kMGTP", 1)}
_FACTORS |= {f"{letter}i": Decimal(2 ** (10 * i)) for i, letter in enumerate("KMGTP", 1)}


def whole(quantity: str | int | float) -> int:
    """A Kubernetes quantity as the operator takes it: rounded up, so `500m` is 1.

    Raises:
        ValueError: it is no quantity.
    """
    text = str(quantity)
    number = text.rstrip("mkKMGTPi")
    try:
        return math.ceil(Decimal(number) * _FACTORS[text[len(number) :]])
    except (InvalidOperation, KeyError):
        raise ValueError(f"{text!r} was given; it is no Kubernetes quantity") from None


@dataclass(frozen=True)
class Group:
    """The head, or one worker group, as the overlay describes it.

    `restarts_in_place`: the kubelet restarts a container that ended; else the operator makes
    another pod in its place.
    """

    name: str
    is_head: bool
    pods: int
    spec: Manifest
    restarts_in_place: bool

    @property
    def pod_spec(self) -> Manifest:
        spec: Manifest = self.spec["template"]["spec"]
        return spec

    @property
    def container(self) -> Manifest:
        """The container that runs Ray: always the first."""
        container: Manifest = self.pod_spec["containers"][0]
        return container

    @property
    def gpus(self) -> int:
        """Of one pod: the first limit that is for GPUs, as the operator takes it."""
        limits = self.container.get("resources", {}).get("limits", {})
        for name, amount in limits.items():
            if name.endswith("gpu") or name.startswith("nvidia.com/mig-"):
                return whole(amount)
        return 0

    @property
    def labels(self) -> dict[str, str]:
        """Ray's node labels, which Serve's `label_selector` looks at."""
        return dict(self.spec.get("labels", {}))

    @property
    def grace_period_s(self) -> float:
        """Between SIGTERM and SIGKILL; 30 s unless the template says otherwise."""
        return float(self.pod_spec.get("terminationGracePeriodSeconds", 30))


def groups(overlay: Overlay) -> list[Group]:
    """The head first, then the worker groups.

    Raises:
        OverlayError: a group has what is not rehearsed.
    """
    scaling = overlay.cluster.get("autoscalerOptions") or {}
    # Only where version 2 is spelt out does the operator set `restartPolicy: Never`.
    replaces = overlay.cluster.get("enableInTreeAutoscaling") and scaling.get("version") == "v2"
    policy = "Never" if replaces else "Always"

    def group(name: str, pods: int, spec: Manifest) -> Group:
        own_policy = spec["template"]["spec"].get("restartPolicy", policy)
        found = Group(name, name == HEAD_GROUP, pods, spec, own_policy == "Always")
        own = ({"resources"} & spec.keys()) | ({"command", "args"} & found.container.keys())
        if own:
            raise OverlayError(f"{overlay.name}: {sorted(own)} of group {name!r} is not rehearsed")
        return found

    return [
        group(HEAD_GROUP, 1, overlay.cluster["headGroupSpec"]),
        *(
            group(
                spec["groupName"],
                max(int(spec.get("replicas") or 0), int(spec.get("minReplicas") or 0)),
                spec,
            )
            for spec in overlay.cluster.get("workerGroupSpecs", [])
        ),
    ]


def head_service(overlay: Overlay) -> Manifest | None:
    """The `spec` of the head's service where it has an address, whatever pod is behind it.

    None where it is headless, so that its name is the pod's own address. The operator makes it so,
    but for another type, and where the RayService brings a `headService` of its own.
    """
    head = overlay.cluster["headGroupSpec"]
    own: Manifest = head.get("headService", {}).get("spec", {})
    if "headService" not in head and head.get("serviceType", "ClusterIP") == "ClusterIP":
        return None
    return None if own.get("clusterIP") == "None" else own


def container_args(overlay: Overlay, group: Group, head_fqdn: str) -> str:
    """What the container's `/bin/bash -c --` gets."""
    files = "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}"
    return f"{files}; {ray_start(overlay, group, head_fqdn)}"


def ray_start(overlay: Overlay, group: Group, head_fqdn: str) -> str:
    """The `ray start` line, with its parameters sorted.

    `head_fqdn` is `<cluster>-head-svc.<namespace>.svc.cluster.local`.
    """
    params = {name: str(value) for name, value in group.spec.get("rayStartParams", {}).items()}
    if group.is_head:
        params.setdefault("dashboard-host", "0.0.0.0")
        if overlay.cluster.get("enableInTreeAutoscaling"):
            params["no-monitor"] = "true"
        if "redisPassword" in redis_options(overlay):
            params["redis-password"] = "$REDIS_PASSWORD"
    else:
        params.setdefault("address", f"{head_fqdn}:{GCS_PORT}")
    params.setdefault("metrics-export-port", "8080")
    params.setdefault("dashboard-agent-listen-port", str(AGENT_PORT))
    params["block"] = "true"
    resources = group.container.get("resources", {})
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    if cpu := limits.get("cpu") or requests.get("cpu"):
        params.setdefault("num-cpus", str(whole(cpu)))
    if memory := limits.get("memory"):
        params.setdefault("memory", str(whole(memory)))
    if group.gpus:
        params.setdefault("num-gpus", str(group.gpus))
    if group.labels:
        pairs = sorted(group.labels.items())
        params["labels"] = ",".join(f"{name}={value}" for name, value in pairs)
    flags = "".join(_flag(name, value) for name, value in sorted(params.items()))
    return f"ray start {'--head ' if group.is_head else ''}{flags}".rstrip()


def _flag(name: str, value: str) -> str:
    if value.lower() in ("true", "false") and name not in _KEEP_BOOLEAN:
        return f" --{name} " if value.lower() == "true" else ""
    return f" --{name}={value} "


def redis_options(overlay: Overlay) -> Manifest:
    """`gcsFaultToleranceOptions`, where the head keeps its state in Redis; else empty."""
    found: Manifest = overlay.cluster.get("gcsFaultToleranceOptions") or {}
    return found if found.get("backend", "redis") == "redis" else {}


def environment(
    overlay: Overlay, group: Group, cluster: str, pod: str, head_fqdn: str
) -> dict[str, str]:
    """The container's environment: the template's, and what the operator adds to it.

    `cluster` and `pod` are their names.

    Raises:
        OverlayError: a variable refers to what isn't there.
    """
    redis = redis_options(overlay)
    added: list[dict[str, Any]] = []
    if redis and group.is_head:
        # The RayCluster's UID: another cluster never sees this one's state.
        state = redis.get("externalStorageNamespace") or f"uid-of-{cluster}"
        added += [
            {"name": "RAY_external_storage_namespace", "value": state},
            {"name": "RAY_REDIS_ADDRESS", "value": redis["redisAddress"]},
        ]
        if "redisPassword" in redis:
            added.append({"name": "REDIS_PASSWORD", **redis["redisPassword"]})
    defaults = {
        "RAY_ADDRESS": f"{'127.0.0.1' if group.is_head else head_fqdn}:{GCS_PORT}",
        "RAY_PORT": str(GCS_PORT),
        "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
        "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE": "1",
        **_SERVICE_ENVIRONMENT,
    }
    forced = {
        "RAY_CLUSTER_NAME": cluster,
        "RAY_CLUSTER_NAMESPACE": overlay.namespace,
        "RAY_CLOUD_INSTANCE_ID": pod,
        "RAY_NODE_TYPE_NAME": group.name,
        "KUBERAY_GEN_RAY_START_CMD": ray_start(overlay, group, head_fqdn),
    }
    if not group.is_head:
        forced |= {"FQ_RAY_IP": head_fqdn, "RAY_IP": head_fqdn.split(".")[0]}
        if "gcsFaultToleranceOptions" in overlay.cluster:
            defaults["RAY_gcs_rpc_server_reconnect_timeout_s"] = "600"
    if token := auth_token(overlay, cluster):
        forced |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    return {**defaults, **overlay.environment(group.container, added), **forced}


def secret_mounts(group: Group) -> dict[str, str]:
    """The Secrets whose files the Ray container has, by the folder that they are mounted at."""
    volumes = group.pod_spec.get("volumes", [])
    names = {one["name"]: one["secret"]["secretName"] for one in volumes if "secret" in one}
    mounts = group.container.get("volumeMounts", [])
    return {one["mountPath"]: names[one["name"]] for one in mounts if one["name"] in names}


def auth_token(overlay: Overlay, cluster: str) -> str | None:
    """The cluster's token; None where the overlay asks for none."""
    options: Mapping[str, str] = overlay.cluster.get("authOptions") or {}
    if options.get("mode") != "token":
        return None
    return overlay.secret(options.get("secretName") or cluster, "auth_token")
