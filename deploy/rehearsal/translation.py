"""The operator's part: a RayService's pods, their `ray start` lines and their environment.

Follows KubeRay 1.7.0 (`ray-operator/controllers/ray/common/pod.go`), whose text this is down to
the double blanks, so that what a pod runs here is what it runs there.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .overlay import Manifest, Overlay
from .quantities import whole

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


@dataclass(frozen=True)
class Group:
    """The head, or one worker group, as the overlay describes it.

    `pods` are those it starts with, `most_pods` those it may grow to. `restarts_in_place`: the
    kubelet restarts a container that ended; else the operator makes another pod in its place.
    """

    name: str
    is_head: bool
    pods: int
    most_pods: int
    spec: Manifest
    restarts_in_place: bool

    @property
    def pod_spec(self) -> Manifest:
        """The template's `spec`."""
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
    def labels(self) -> Mapping[str, str]:
        """Ray's node labels, which Serve's `label_selector` looks at."""
        return dict(self.spec.get("labels", {}))

    @property
    def grace_period_s(self) -> float:
        """Between SIGTERM and SIGKILL; 30 s unless the template says otherwise."""
        return float(self.pod_spec.get("terminationGracePeriodSeconds", 30))


def groups(ray_service: Manifest) -> list[Group]:
    """The head first, then the worker groups."""
    config = ray_service["spec"]["rayClusterConfig"]
    autoscaler = config.get("autoscalerOptions") or {}
    grows = bool(config.get("enableInTreeAutoscaling"))
    # Only where version 2 is spelt out does the operator set `restartPolicy: Never`.
    policy = "Never" if grows and autoscaler.get("version") == "v2" else "Always"

    def group(name: str, is_head: bool, pods: int, most_pods: int, spec: Manifest) -> Group:
        in_place = spec["template"]["spec"].get("restartPolicy", policy) == "Always"
        return Group(name, is_head, pods, most_pods, spec, in_place)

    found = [group(HEAD_GROUP, True, 1, 1, config["headGroupSpec"])]
    for spec in config.get("workerGroupSpecs", []):
        pods = max(int(spec.get("replicas") or 0), int(spec.get("minReplicas") or 0))
        most_pods = int(spec.get("maxReplicas") or pods) if grows else pods
        found.append(group(spec["groupName"], False, pods, most_pods, spec))
    return found


def head_service(ray_service: Manifest) -> Manifest | None:
    """The `spec` of the head's service where it has an address, whatever pod is behind it.

    None where it is headless, so that its name is the pod's own address. The operator makes it so,
    but for another type, and where the RayService brings a `headService` of its own.
    """
    head = ray_service["spec"]["rayClusterConfig"]["headGroupSpec"]
    own: Manifest = head.get("headService", {}).get("spec", {})
    if "headService" not in head and head.get("serviceType", "ClusterIP") == "ClusterIP":
        return None
    return None if own.get("clusterIP") == "None" else own


def container_args(ray_service: Manifest, group: Group, head_fqdn: str) -> str:
    """What the container's `/bin/bash -c --` gets: the template's own command first, if any."""
    own = " ".join([*group.container.get("command", []), *group.container.get("args", [])])
    files = "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}"
    generated = f"{files}; {ray_start(ray_service, group, head_fqdn)}"
    return f"{own} && {generated}" if own else generated


def ray_start(ray_service: Manifest, group: Group, head_fqdn: str) -> str:
    """The `ray start` line, with its parameters sorted.

    Args:
        ray_service: the whole object.
        group: one of its groups.
        head_fqdn: `<cluster>-head-svc.<namespace>.svc.cluster.local`.
    """
    config = ray_service["spec"]["rayClusterConfig"]
    params = {name: str(value) for name, value in group.spec.get("rayStartParams", {}).items()}
    if group.is_head:
        params.setdefault("dashboard-host", "0.0.0.0")
        if config.get("enableInTreeAutoscaling"):
            params["no-monitor"] = "true"
        if _redis(config) and "redisPassword" in config["gcsFaultToleranceOptions"]:
            params["redis-password"] = "$REDIS_PASSWORD"
        if _redis(config) and "redisUsername" in config["gcsFaultToleranceOptions"]:
            params["redis-username"] = "$REDIS_USERNAME"
    else:
        params.setdefault("address", f"{head_fqdn}:{GCS_PORT}")
    params.setdefault("metrics-export-port", "8080")
    params.setdefault("dashboard-agent-listen-port", str(AGENT_PORT))
    params["block"] = "true"
    _add_resources(params, group)
    if group.labels:
        pairs = sorted(group.labels.items())
        params["labels"] = ",".join(f"{name}={value}" for name, value in pairs)
    flags = "".join(_flag(name, value) for name, value in sorted(params.items()))
    return f"ray start {'--head ' if group.is_head else ''}{flags}".rstrip()


def _add_resources(params: dict[str, str], group: Group) -> None:
    resources = group.container.get("resources", {})
    limits = resources.get("limits", {})
    requests = resources.get("requests", {})
    custom: dict[str, int] = {}
    if cpu := limits.get("cpu") or requests.get("cpu"):
        params.setdefault("num-cpus", str(whole(cpu)))
    if memory := limits.get("memory"):
        params.setdefault("memory", str(whole(memory)))
    if group.gpus:
        params.setdefault("num-gpus", str(group.gpus))
    # A group's own `resources:` goes before both.
    flags = {"CPU": "num-cpus", "GPU": "num-gpus", "memory": "memory"}
    for name, amount in group.spec.get("resources", {}).items():
        if name in flags:
            params[flags[name]] = str(whole(amount))
        else:
            custom[name] = whole(amount)
    if custom:
        params["resources"] = f"'{json.dumps(custom, separators=(',', ':'))}'"


def _flag(name: str, value: str) -> str:
    if value.lower() in ("true", "false") and name not in _KEEP_BOOLEAN:
        return f" --{name} " if value.lower() == "true" else ""
    return f" --{name}={value} "


def _redis(config: Manifest) -> bool:
    options = config.get("gcsFaultToleranceOptions")
    return options is not None and options.get("backend", "redis") == "redis"


def environment(
    overlay: Overlay, group: Group, cluster: str, pod: Mapping[str, str], head_fqdn: str
) -> dict[str, str]:
    """The container's environment: the template's, and what the operator adds to it.

    Args:
        overlay: of the group.
        group: the pod's.
        cluster: the RayCluster's name.
        pod: the pod's fields by path: `metadata.name`, `metadata.uid`, `status.podIP`, ...
        head_fqdn: the head service's name.

    Raises:
        OverlayError: a variable refers to what isn't there.
    """
    config = overlay.ray_service["spec"]["rayClusterConfig"]
    asked = [*group.container.get("env", []), *_fault_tolerance(overlay, group, cluster)]
    own = overlay.env_from(group.container.get("envFrom", []))
    for variable in asked:
        value = _value(overlay, variable, pod, own)
        if value is not None:
            own[variable["name"]] = value
    defaults = {
        "RAY_ADDRESS": f"127.0.0.1:{GCS_PORT}" if group.is_head else f"{head_fqdn}:{GCS_PORT}",
        "RAY_PORT": str(GCS_PORT),
        "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
        "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE": "1",
        **_SERVICE_ENVIRONMENT,
    }
    forced = {
        "RAY_CLUSTER_NAME": cluster,
        "RAY_CLUSTER_NAMESPACE": overlay.namespace,
        "RAY_CLOUD_INSTANCE_ID": pod["metadata.name"],
        "RAY_NODE_TYPE_NAME": group.name,
        "KUBERAY_GEN_RAY_START_CMD": ray_start(overlay.ray_service, group, head_fqdn),
    }
    if not group.is_head:
        forced["FQ_RAY_IP"] = head_fqdn
        forced["RAY_IP"] = head_fqdn.split(".")[0]
    if token := auth_token(overlay, cluster):
        forced["RAY_AUTH_MODE"] = "token"
        forced["RAY_AUTH_TOKEN"] = token
    if "gcsFaultToleranceOptions" in config and not group.is_head:
        defaults["RAY_gcs_rpc_server_reconnect_timeout_s"] = "600"
    return {**defaults, **own, **forced}


def secret_mounts(group: Group) -> dict[str, str]:
    """The Secrets whose files the Ray container has, by the folder that they are mounted at."""
    secrets = {
        one["name"]: one["secret"]["secretName"]
        for one in group.pod_spec.get("volumes", [])
        if "secret" in one
    }
    return {
        one["mountPath"]: secrets[one["name"]]
        for one in group.container.get("volumeMounts", [])
        if one["name"] in secrets
    }


def auth_token(overlay: Overlay, cluster: str) -> str | None:
    """The cluster's token; None where the overlay asks for none."""
    options = overlay.ray_service["spec"]["rayClusterConfig"].get("authOptions") or {}
    if options.get("mode") != "token":
        return None
    return overlay.secret(options.get("secretName") or cluster, "auth_token")


def redis_address(ray_service: Manifest) -> tuple[str, int] | None:
    """Host and port of the Redis that the head keeps its state in; None where it has none."""
    config = ray_service["spec"]["rayClusterConfig"]
    if not _redis(config):
        return None
    address = config["gcsFaultToleranceOptions"]["redisAddress"].removeprefix("redis://")
    host, _, port = address.partition(":")
    return host, int(port or 6379)


def _fault_tolerance(overlay: Overlay, group: Group, cluster: str) -> list[dict[str, Any]]:
    """The head's variables for Redis, as entries of `env`."""
    config = overlay.ray_service["spec"]["rayClusterConfig"]
    if not (group.is_head and _redis(config)):
        return []
    options = config["gcsFaultToleranceOptions"]
    # The operator takes the RayCluster's UID: another cluster never sees this one's state.
    namespace = options.get("externalStorageNamespace") or f"uid-of-{cluster}"
    variables: list[dict[str, Any]] = [
        {"name": "RAY_external_storage_namespace", "value": namespace},
        {"name": "RAY_REDIS_ADDRESS", "value": options["redisAddress"]},
    ]
    for name, key in (("REDIS_PASSWORD", "redisPassword"), ("REDIS_USERNAME", "redisUsername")):
        if key in options:
            variables.append({"name": name, **options[key]})
    return variables


def _value(
    overlay: Overlay, variable: Manifest, pod: Mapping[str, str], known: Mapping[str, str]
) -> str | None:
    if "valueFrom" in variable:
        return overlay.value_from(variable["valueFrom"], pod)
    value = str(variable.get("value", ""))
    for name, known_value in known.items():  # `$(NAME)` is a variable listed before.
        value = value.replace(f"$({name})", known_value)
    return value
