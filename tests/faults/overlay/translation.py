"""The operator's part: a RayService's pods, their `ray start` lines and their environment.

Restates KubeRay v1.7.0, so far as overlays here use it, down to the double blanks:

- `ray-operator/controllers/ray/common/pod.go`: the container's command (`BuildPod`,
  `generateRayStartCommand`, `convertParamMap`), its parameters (`setMissingRayStartParams`), its
  environment, the restart policy, and the autoscaler's container (`BuildAutoscalerContainer`)
- `ray-operator/controllers/ray/common/service.go`: when the head's service has an address

Another version of KubeRay means reading these again, and those that `operator` and `kubelet`
name. What overlays here don't use is refused.
"""

import math
from dataclasses import dataclass
from decimal import Decimal

from .manifests import Manifest, Overlay, OverlayError

GCS_PORT = 6379
AGENT_PORT = 52365
HEAD_GROUP = "headgroup"
_FACTORS = {"m": Decimal("0.001"), "": Decimal(1)}
_FACTORS |= {letter: Decimal(10 ** (3 * i)) for i, letter in enumerate("kMGTP", 1)}
_FACTORS |= {f"{letter}i": Decimal(2 ** (10 * i)) for i, letter in enumerate("KMGTP", 1)}


def whole(quantity: str | int | float) -> int:
    """A Kubernetes quantity as the operator takes it: rounded up, so `500m` is 1."""
    text = str(quantity)
    number = text.rstrip("mkKMGTPi")
    return math.ceil(Decimal(number) * _FACTORS[text[len(number) :]])


@dataclass(frozen=True)
class Group:
    """The head, or one worker group, as the overlay describes it.

    `restarts_in_place`: the kubelet restarts a container that ended; else the operator makes
    another pod in its place. `gpus` are those of one pod.
    """

    name: str
    is_head: bool
    pods: int
    restarts_in_place: bool
    spec: Manifest
    pod_spec: Manifest
    # The first is always the one that runs Ray.
    container: Manifest
    gpus: int
    # Of Ray's nodes: Serve's `label_selector` looks at them.
    labels: dict[str, str]
    grace_period_s: float


def groups(overlay: Overlay) -> list[Group]:
    """The head first, then the worker groups."""
    scaling = overlay.cluster.get("autoscalerOptions") or {}
    # Only where version 2 is spelt out does the operator set `restartPolicy: Never`.
    replaces = overlay.cluster.get("enableInTreeAutoscaling") and scaling.get("version") == "v2"
    policy = "Never" if replaces else "Always"
    return [_group(overlay, spec, policy) for spec in overlay.groups]


def _group(overlay: Overlay, spec: Manifest, restart_policy: str) -> Group:
    name = spec.get("groupName", HEAD_GROUP)
    is_head = name == HEAD_GROUP
    pod_spec = spec["template"]["spec"]
    container = pod_spec["containers"][0]
    unsupported = ({"resources"} & spec.keys()) | ({"command", "args"} & container.keys())
    if unsupported:
        raise OverlayError(f"{overlay.name}: {unsupported} of group {name!r} is unsupported")
    limits = container.get("resources", {}).get("limits", {})
    gpus = [whole(amount) for kind, amount in limits.items() if kind.endswith("gpu")]
    pods = max(int(spec.get("replicas") or 0), int(spec.get("minReplicas") or 0))
    return Group(
        name,
        is_head,
        1 if is_head else pods,
        pod_spec.get("restartPolicy", restart_policy) == "Always",
        spec,
        pod_spec,
        container,
        sum(gpus),
        dict(spec.get("labels", {})),
        float(pod_spec.get("terminationGracePeriodSeconds", 30)),
    )


def has_head_service(overlay: Overlay) -> bool:
    """Whether the head's service has an address, whatever pod is behind it.

    Else it is headless, as the operator makes it: its name is the pod's own address.
    """
    own = overlay.groups[0].get("headService", {}).get("spec", {})
    if own and not (own.get("type") == "ClusterIP" and own.get("publishNotReadyAddresses")):
        raise OverlayError(f"{overlay.name}: headService {own} is unsupported")
    return bool(own)


def container_args(overlay: Overlay, group: Group, head_fqdn: str) -> str:
    """What the container's `/bin/bash -c --` gets."""
    files = "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}"
    return f"{files}; {ray_start(overlay, group, head_fqdn)}"


def autoscaler(overlay: Overlay) -> list[str]:
    """The command of the autoscaler's container in the head's pod; empty where there is none."""
    if not overlay.cluster.get("enableInTreeAutoscaling"):
        return []
    options = overlay.cluster.get("autoscalerOptions") or {}
    flags = '--cluster-name "$RAY_CLUSTER_NAME" --cluster-namespace "$RAY_CLUSTER_NAMESPACE"'
    return [
        *(options.get("command") or ["/bin/bash", "-c", "--"]),
        *(options.get("args") or [f"ray kuberay-autoscaler {flags}"]),
    ]


def ray_start(overlay: Overlay, group: Group, head_fqdn: str) -> str:
    """The `ray start` line; `head_fqdn` is `<cluster>-head-svc.<namespace>.svc.cluster.local`."""
    resources = group.container.get("resources", {})
    limits, requests = resources.get("limits", {}), resources.get("requests", {})
    defaults = {
        "metrics-export-port": 8080,
        "dashboard-agent-listen-port": AGENT_PORT,
        "num-cpus": whole(limits.get("cpu") or requests.get("cpu") or 0),
        "memory": whole(limits.get("memory") or 0),
        "num-gpus": group.gpus,
        **(
            {"dashboard-host": "0.0.0.0"}
            if group.is_head
            else {"address": f"{head_fqdn}:{GCS_PORT}"}
        ),
    }
    params = {name: str(value) for name, value in defaults.items() if value}
    params |= {name: str(value) for name, value in group.spec.get("rayStartParams", {}).items()}
    params["block"] = "true"
    if group.is_head and overlay.cluster.get("enableInTreeAutoscaling"):
        params["no-monitor"] = "true"
    if group.is_head and "redisPassword" in redis_options(overlay):
        params["redis-password"] = "$REDIS_PASSWORD"
    if group.labels:
        pairs = sorted(group.labels.items())
        params["labels"] = ",".join(f"{name}={value}" for name, value in pairs)
    flags = "".join(_flag(name, value) for name, value in sorted(params.items()))
    return f"ray start {'--head ' if group.is_head else ''}{flags}".rstrip()


def _flag(name: str, value: str) -> str:
    if value in ("true", "false"):
        return f" --{name} " if value == "true" else ""
    return f" --{name}={value} "


def redis_options(overlay: Overlay) -> Manifest:
    """`gcsFaultToleranceOptions`, where the head keeps its state in Redis; else empty."""
    found: Manifest = overlay.cluster.get("gcsFaultToleranceOptions") or {}
    return found if found.get("backend", "redis") == "redis" else {}


def environment(
    overlay: Overlay, group: Group, cluster: str, pod: str, head_fqdn: str
) -> dict[str, str]:
    """The container's environment; `cluster` and `pod` are their names."""
    redis = redis_options(overlay)
    added: list[Manifest] = []
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
        # For clusters that belong to a RayService.
        "RAY_timeout_ms_task_wait_for_death_info": "0",
        "RAY_gcs_server_request_timeout_seconds": "5",
        "RAY_SERVE_KV_TIMEOUT_S": "5",
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
    options = overlay.cluster.get("authOptions") or {}
    if options.get("mode") != "token":
        return None
    return overlay.secret(options.get("secretName") or cluster, "auth_token")
