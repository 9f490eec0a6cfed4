"""What must hold in every rendered overlay. Each check yields one line per fault.

`CHECKS` lists them; test_overlays.py runs them over every overlay and shows each to fail on a fault
that is planted.
"""

import inspect
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.scripts.scripts import start as ray_start
from ray.serve.schema import ServeDeploySchema

from serve.app import build_app, compose
from serve.catalogue import family
from serve.config import AppArgs
from serve.http.schemas import bounds
from serve.http.streaming import HEARTBEAT_S
from serve.routing.auto import QualityFirstPolicy
from serve.weights.layout import architecture_dir
from serve.weights.manifest import read_manifest
from tests.manifests.rendering import (
    ROOT,
    Manifest,
    containers,
    groups,
    named,
    of_kind,
    pod_labels,
    pod_templates,
    ray_service,
    serve_config,
)
from tests.manifests.strict import against_crd, crd_schema, unknown_keys

# The oldest that is supported, and the newest with a schema.
KUBERNETES_VERSIONS = ["1.29", "1.37"]
# Custom resources of others. Their definitions aren't part of Kubernetes' schemas.
UNCHECKED_KINDS = {"Gateway", "HTTPRoute", "PodMonitor", "PrometheusRule", "CiliumNetworkPolicy"}
CRD_FOLDERS = [
    Path(os.environ.get("KUBERAY_CRDS", "/nonexistent")),
    ROOT.parent / "shared" / "reference" / "kuberay-1.7.0",
]
CRD_SOURCE = (
    "KubeRay's CRDs aren't here: name a folder with ray.io_rayservices.yaml in KUBERAY_CRDS. It is "
    "helm-chart/kuberay-operator/crds/ of github.com/ray-project/kuberay at tag v1.7.0"
)
# So many in a row replace a replica: Serve's own number.
_FAILED_CHECKS = 3
# Kubernetes' default: Ray's processes end within it.
_HEADS_GRACE_S = 30
# By these its Service finds the head: `HeadServiceLabels` in KubeRay's `common/service.go`.
_OPERATORS_LABELS = {
    "app.kubernetes.io/name",
    "app.kubernetes.io/created-by",
    "ray.io/identifier",
}


def app_args(manifests: list[Manifest]) -> AppArgs:
    """The application's options, with the catalogue that the ConfigMap has."""
    given = serve_config(manifests)["applications"][0]["args"]
    path = Path(str(given.get("catalogue")))
    for one in of_kind(manifests, "ConfigMap"):
        if path.name in one["data"]:
            given["catalogue"] = yaml.safe_load(one["data"][path.name])
    return AppArgs.model_validate(given)


def core_kinds_fit_their_schemas(manifests: list[Manifest]) -> Iterator[str]:
    # What the operator makes of a RayService is a core kind, too.
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": where}, "spec": template["spec"]}
        for where, template in pod_templates(manifests).items()
        if where.startswith("RayService")
    ]
    for one in [*manifests, *pods]:
        if one["kind"] in UNCHECKED_KINDS | {"RayService"}:
            continue
        for version in KUBERNETES_VERSIONS:
            try:
                kubernetes_validate.validate(one, version, strict=True)
            except kubernetes_validate.ValidationError as fault:
                yield f"{named(one)}: {fault.message}"
            except kubernetes_validate.SchemaNotFoundError:
                yield f"{named(one)}: not a kind of Kubernetes {version}"


@cache
def ray_service_schema() -> dict[str, Any]:
    for folder in CRD_FOLDERS:
        path = folder / "ray.io_rayservices.yaml"
        if path.is_file():
            definition = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
            return crd_schema(definition, "v1")
    pytest.skip(CRD_SOURCE)


def the_ray_service_fits_the_crd(manifests: list[Manifest]) -> Iterator[str]:
    yield from against_crd(ray_service_schema(), ray_service(manifests))


def what_the_crd_leaves_open_is_right(manifests: list[Manifest]) -> Iterator[str]:
    spec = ray_service(manifests)["spec"]
    kind = spec["upgradeStrategy"]["type"]
    if kind not in ("NewCluster", "None"):
        yield f"upgradeStrategy.type: {kind!r}; the CRD takes any string"
    known = {option.lstrip("-") for parameter in ray_start.params for option in parameter.opts}
    for group in groups(manifests):
        for name in set(group["rayStartParams"]) - known:
            yield f"rayStartParams: `ray start` has no --{name}"


def the_serve_config_is_serves(manifests: list[Manifest]) -> Iterator[str]:
    content = serve_config(manifests)
    ServeDeploySchema.model_validate(content)
    yield from unknown_keys(ServeDeploySchema, content)


def the_app_builds_from_the_serve_config(manifests: list[Manifest]) -> Iterator[str]:
    (application,) = serve_config(manifests)["applications"]
    if application["import_path"] != "serve.app:build_app":
        yield f"import_path: {application['import_path']}"
    try:
        args = app_args(manifests)
    except ValueError as fault:
        yield f"args: {fault}"
        return
    if args.family == "miniature":
        build_app(args)
    else:
        # The published weights aren't here; how the application is put together needs none.
        manifest = read_manifest(architecture_dir(args.family))
        # A merged UNet has the architecture of its base, and so has an own variant's.
        pinned = {
            name: manifest.components[part.architecture]
            for name, part in args.known.components(args.served).items()
        }
        manifest = manifest.model_copy(update={"components": pinned})
        compose(args, manifest, lambda variant: None)  # type: ignore[arg-type, return-value]
    built = {"router", *args.served}
    configured = {one["name"] for one in application["deployments"]}
    for name in configured ^ built:
        where = "not in the file" if name in built else "not in the application"
        yield f"deployment {name!r}: {where}"


def the_drain_chain_holds(manifests: list[Manifest]) -> Iterator[str]:
    config, spec = serve_config(manifests), ray_service(manifests)["spec"]
    request = config["http_options"]["request_timeout_s"]
    replicas = {}
    for one in config["applications"][0]["deployments"]:
        if "graceful_shutdown_timeout_s" not in one:
            yield f"{one['name']}: graceful_shutdown_timeout_s is not in the file"
            continue
        replicas[one["name"]] = one["graceful_shutdown_timeout_s"]
    for name, replica in replicas.items():
        if request > replica:
            yield f"{name}: request_timeout_s {request} > graceful_shutdown_timeout_s {replica}"
    for group in groups(manifests):
        pod = group["template"]["spec"]
        literals = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
        if "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S" not in literals:
            yield "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S is no literal of the Ray container"
            continue
        drain = int(literals["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        pod_s = pod["terminationGracePeriodSeconds"]
        if "groupName" in group:
            for name, replica in replicas.items():
                if replica > drain:
                    yield (
                        f"{name}: graceful_shutdown_timeout_s {replica} > the drain timeout {drain}"
                    )
        elif drain or pod_s > _HEADS_GRACE_S:  # It has no replica to wait for.
            yield f"head: drains {drain} s of {pod_s} s before there can be another"
        if drain >= pod_s:
            yield f"the drain timeout {drain} >= terminationGracePeriodSeconds {pod_s}"
        cluster_s = spec["rayClusterDeletionDelaySeconds"]
        if pod_s > cluster_s:
            yield (
                f"terminationGracePeriodSeconds {pod_s} > rayClusterDeletionDelaySeconds "
                f"{cluster_s}"
            )
        for container in pod["containers"]:
            if "preStop" in container.get("lifecycle", {}):
                yield f"{container['name']}: a preStop hook ends work before it is drained"


def everything_before_the_service_waits_longer(manifests: list[Manifest]) -> Iterator[str]:
    request_s = serve_config(manifests)["http_options"]["request_timeout_s"]
    args = app_args(manifests)
    if args.max_request_s is None or args.max_request_s + args.body_timeout_s >= request_s:
        yield (
            f"max_request_s: {args.max_request_s}; with body_timeout_s {args.body_timeout_s:g} it "
            f"must be less than the {request_s} s after which Serve gives up"
        )
    environment = ray_environment(manifests)
    buckets = [float(one) for one in environment["RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS"].split(",")]
    if buckets != sorted(set(buckets)) or buckets[-1] < 1000 * request_s:
        yield "RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS: must rise, to request_timeout_s at least"
    if environment.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        stop_s = float(environment.get("RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S", 120))
        if stop_s <= request_s:
            yield f"RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S: {stop_s} cuts requests of {request_s} s"
        client_s = float(environment.get("RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S", 3600))
        if client_s <= 2 * HEARTBEAT_S:
            yield f"RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S: {client_s:g} is between heartbeats"
        if not args.body_timeout_s < client_s <= request_s:
            yield (
                f"RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S: {client_s:g}; it must be over "
                "body_timeout_s, and no more than request_timeout_s"
            )
    for route in of_kind(manifests, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for name in ("request", "backendRequest"):
                text = rule.get("timeouts", {}).get(name, "0s")
                if float(text.removesuffix("s")) <= request_s:
                    yield f"HTTPRoute: timeouts.{name} {text} <= request_timeout_s {request_s}"
            removed = {
                header
                for one in rule.get("filters", [])
                for header in one.get("requestHeaderModifier", {}).get("remove", [])
            }
            for header in {"x-request-timeout-seconds", "x-request-disconnect-disabled"} - removed:
                yield f"HTTPRoute: lets clients send {header}"


def ray_environment(manifests: list[Manifest]) -> dict[str, str]:
    """What the Ray containers get from the ConfigMap that they name."""
    name = groups(manifests)[0]["template"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"][
        "name"
    ]
    (found,) = [one for one in of_kind(manifests, "ConfigMap") if one["metadata"]["name"] == name]
    data: dict[str, str] = found["data"]
    return data


POD_SECURITY = {
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
RAY_WRITES_TO = {"/tmp", "/tmp/ray", "/home/app", "/dev/shm"}


def answers_and_logs_cross_serve_whole(manifests: list[Manifest]) -> Iterator[str]:
    environment = ray_environment(manifests)
    if environment.get("RAY_SERVE_THROUGHPUT_OPTIMIZED") != "1":
        return
    name = "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"
    most_bytes = int(environment.get(name, 4 * 1024**2))
    side_px = max(variant.max_size_px for variant in app_args(manifests).known.variants.values())
    pictures = bounds()["n"][1]
    # Three bytes a pixel, and what PNG adds to noise that it can't make smaller.
    needed = int(pictures * 3 * side_px**2 * 1.02)
    if most_bytes < needed:
        yield f"{name}: {most_bytes}; {pictures:g} pictures of {side_px}x{side_px} may be {needed}"
    if environment.get("RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE") != "1":
        yield "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE: must be 1, else log lines are held back"


def pods_are_restricted(manifests: list[Manifest]) -> Iterator[str]:
    for where, template in pod_templates(manifests).items():
        spec = template["spec"]
        security = spec.get("securityContext", {})
        for field, wanted in POD_SECURITY.items():
            if security.get(field) != wanted:
                yield f"{where}: securityContext.{field} is not {wanted}"
        if not security.get("runAsUser", 0) > 0:
            yield f"{where}: securityContext.runAsUser is not a user other than root"
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if spec.get(field):
                yield f"{where}: {field}"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{where}: automountServiceAccountToken is not false"
        for volume in spec.get("volumes", []):
            if "hostPath" in volume:
                yield f"{where}: hostPath {volume['name']}"
        for one in containers(template):
            yield from _restricted(f"{where}, {one['name']}", one.get("securityContext", {}))
            if "memory" not in one.get("resources", {}).get("limits", {}):
                yield f"{where}, {one['name']}: no memory limit"
            if {"cpu", "memory"} - set(one.get("resources", {}).get("requests", {})):
                yield f"{where}, {one['name']}: no request for cpu and memory"
    for group in groups(manifests):
        where, spec = group.get("groupName", "head"), group["template"]["spec"]
        emptied = {one["name"]: one["emptyDir"] for one in spec["volumes"] if "emptyDir" in one}
        mounts = {one["mountPath"]: one["name"] for one in spec["containers"][0]["volumeMounts"]}
        for path in RAY_WRITES_TO:
            if mounts.get(path) not in emptied:
                yield f"{where}: {path} is no emptyDir, and Ray writes to it"
        if emptied.get(mounts.get("/dev/shm", ""), {}).get("medium") != "Memory":
            yield f"{where}: /dev/shm is not in memory"
        literals = {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}
        if literals.get("HOME") not in RAY_WRITES_TO:
            yield f"{where}: HOME is not a folder that can be written to"
    cluster = ray_service(manifests)["spec"]["rayClusterConfig"]
    if cluster["enableInTreeAutoscaling"]:
        security = cluster["autoscalerOptions"].get("securityContext", {})
        yield from _restricted("autoscalerOptions", security)
    namespaces = of_kind(manifests, "Namespace")
    enforced = "pod-security.kubernetes.io/enforce"
    if [one["metadata"]["labels"].get(enforced) for one in namespaces] != ["restricted"]:
        yield "Namespace: doesn't enforce restricted pods"


def _restricted(where: str, security: Manifest) -> Iterator[str]:
    for field, wanted in CONTAINER_SECURITY.items():
        if security.get(field) != wanted:
            yield f"{where}: securityContext.{field} is not {wanted}"
    if security.get("privileged") or security.get("capabilities", {}).get("add"):
        yield f"{where}: privileged, or with added capabilities"


def versions_are_equal_everywhere(manifests: list[Manifest]) -> Iterator[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    cluster = ray_service(manifests)["spec"]["rayClusterConfig"]
    if cluster["rayVersion"] != pins["ray"]:
        yield f"rayVersion: {cluster['rayVersion']}, but constraints.txt has ray=={pins['ray']}"
    ours = set()
    for where, template in pod_templates(manifests).items():
        for one in containers(template):
            repository, _, tag = one["image"].rpartition(":")
            if "@sha256:" in one["image"]:
                continue
            if not repository or not re.search(r"\d+\.\d+\.\d+", tag):
                yield f"{where}: {one['image']} is no exact tag"
            elif repository.endswith("distilled-sd-serve"):
                ours.add(tag)
            elif repository.endswith("distilled-sd-serve-loadtest") and tag != project:
                yield f"{where}: {one['image']}, but this is {project}"
    device = "cuda" if "cuda" in yaml.safe_dump(serve_config(manifests)) else "cpu"
    if ours != {f"{project}-{device}"}:
        yield f"images: tags {sorted(ours)}, but this is {project} for {device}"


def references_meet(manifests: list[Manifest]) -> Iterator[str]:
    made = {(one["kind"], one["metadata"]["name"]) for one in manifests}
    # The API server makes the first in every namespace; users make Secrets.
    made |= {("ConfigMap", "kube-root-ca.crt")}
    for where, template in pod_templates(manifests).items():
        for kind, name in _referenced(template["spec"]):
            if kind != "Secret" and (kind, name) not in made:
                yield f"{where}: there is no {kind} {name}"
        mounted = {one["name"] for one in template["spec"].get("volumes", [])}
        for one in of_kind(manifests, "StatefulSet"):
            if named(one) == where:
                claims = one["spec"]["volumeClaimTemplates"]
                mounted |= {claim["metadata"]["name"] for claim in claims}
        for one in containers(template):
            for mount in one.get("volumeMounts", []):
                if mount["name"] not in mounted:
                    yield f"{where}: there is no volume {mount['name']}"
    for one in manifests:
        if one["kind"] != "Namespace" and one["metadata"].get("namespace") != "distilled-sd-serve":
            yield f"{named(one)}: in no namespace of ours"
    service = ray_service(manifests)
    made.add(("Service", f"{service['metadata']['name']}-serve-svc"))
    for route in of_kind(manifests, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                if ("Service", backend["name"]) not in made:
                    yield f"HTTPRoute: there is no Service {backend['name']}"
        for parent in route["spec"]["parentRefs"]:
            if ("Gateway", parent["name"]) not in made:
                yield f"HTTPRoute: there is no Gateway {parent['name']}"
    options = service["spec"]["rayClusterConfig"].get("gcsFaultToleranceOptions")
    if options and ("Service", options["redisAddress"].split(":")[0]) not in made:
        yield f"gcsFaultToleranceOptions: there is no Service {options['redisAddress']}"


def _referenced(content: Any) -> Iterator[tuple[str, str]]:
    if isinstance(content, list):
        for one in content:
            yield from _referenced(one)
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if key in ("configMapRef", "configMapKeyRef", "configMap"):
            yield "ConfigMap", value["name"]
        elif key in ("secretRef", "secretKeyRef"):
            yield "Secret", value["name"]
        elif key == "secret" and "secretName" in value:
            yield "Secret", value["secretName"]
        elif key == "persistentVolumeClaim":
            yield "PersistentVolumeClaim", value["claimName"]
        elif key == "serviceAccountName":
            yield "ServiceAccount", value
        else:
            yield from _referenced(value)


def labels_and_selectors_meet(manifests: list[Manifest]) -> Iterator[str]:
    templates, pods = pod_templates(manifests), pod_labels(manifests)
    for where, selector in _selectors(manifests):
        if selector and not any(_selects(selector, labels) for labels in pods.values()):
            yield f"{where}: selects none of our pods: {selector}"
    head = groups(manifests)[0]
    for name in _OPERATORS_LABELS & {*pods["RayService, head"], *head.get("labels", {})}:
        yield f"head: the operator's Service selects another {name}"
    for where, template in templates.items():
        for spread in template["spec"].get("topologySpreadConstraints", []):
            if not _selects(spread["labelSelector"], template["metadata"]["labels"]):
                yield f"{where}: spreads other pods than its own"
    offered = [group.get("labels", {}) for group in groups(manifests)[1:]]
    for one in serve_config(manifests)["applications"][0]["deployments"]:
        wanted = one.get("ray_actor_options", {}).get("label_selector", {})
        if wanted and not any(wanted.items() <= labels.items() for labels in offered):
            yield f"{one['name']}: no worker group has the labels {wanted}"


def _selectors(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    for one in manifests:
        spec = one.get("spec", {})
        match one["kind"]:
            case "NetworkPolicy":
                yield named(one), spec["podSelector"]
                for rule in [*spec.get("ingress", []), *spec.get("egress", [])]:
                    for peer in [*rule.get("from", []), *rule.get("to", [])]:
                        if "podSelector" in peer and "namespaceSelector" not in peer:
                            yield named(one), peer["podSelector"]
            case "Service":
                yield named(one), {"matchLabels": spec["selector"]}
            case "PodDisruptionBudget" | "PodMonitor" | "StatefulSet" | "DaemonSet":
                yield named(one), spec["selector"]
            case "CiliumNetworkPolicy":
                yield named(one), spec["endpointSelector"]


def _selects(selector: Manifest, labels: dict[str, str]) -> bool:
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", [])
    )


def ports_are_named_and_open(manifests: list[Manifest]) -> Iterator[str]:
    templates = pod_templates(manifests)
    head = _ports(templates["RayService, head"])
    for name in ("serve", "dashboard", "metrics", "as-metrics", "dash-metrics"):
        if name not in head:
            yield f"head: no port is named {name!r}"
    port = serve_config(manifests)["http_options"]["port"]
    for where, template in templates.items():
        if where.startswith("RayService") and _ports(template).get("serve") != port:
            yield f"{where}: port serve is not http_options.port, {port}"
        for one in containers(template):
            for probe in ("readinessProbe", "livenessProbe"):
                target = one.get(probe, {}).get("httpGet", {}).get("port")
                if target and target not in _ports(template):
                    yield f"{where}: {probe} asks port {target!r}"
    for one in of_kind(manifests, "PodMonitor"):
        for template in templates.values():
            if _selects(one["spec"]["selector"], template["metadata"]["labels"]):
                for endpoint in one["spec"]["podMetricsEndpoints"]:
                    if endpoint["port"] not in _ports(template):
                        yield f"{named(one)}: there is no port {endpoint['port']!r}"
    for one in of_kind(manifests, "NetworkPolicy"):
        opened = [
            port["port"]
            for rule in one["spec"].get("ingress", [])
            for port in rule.get("ports", [])
        ]
        listening = {
            number
            for template in templates.values()
            if _selects(one["spec"]["podSelector"], template["metadata"]["labels"])
            for number in _ports(template).values()
        }
        for number in set(opened) - listening:
            yield f"{named(one)}: nothing it selects listens on {number}"


def _ports(template: Manifest) -> dict[str, int]:
    return {
        port["name"]: port["containerPort"]
        for one in template["spec"]["containers"]
        for port in one.get("ports", [])
    }


def nobody_reaches_more_than_needed(manifests: list[Manifest]) -> Iterator[str]:
    policies = of_kind(manifests, "NetworkPolicy")
    denied = [
        one
        for one in policies
        if one["spec"]["podSelector"] == {}
        and not one["spec"].get("ingress")
        and not one["spec"].get("egress")
    ]
    if [one["spec"]["policyTypes"] for one in denied] != [["Ingress", "Egress"]]:
        yield "NetworkPolicy: nothing refuses what isn't allowed"
    for one in policies:
        for rule in one["spec"].get("ingress", []):
            if not rule.get("from"):
                yield f"{named(one)}: open to everybody"
            outside = [peer for peer in rule.get("from", []) if "namespaceSelector" in peer]
            if outside and not rule.get("ports"):
                yield f"{named(one)}: opens every port to another namespace"
        for rule in one["spec"].get("egress", []):
            inside = all("ipBlock" not in peer for peer in rule.get("to", [{"ipBlock": {}}]))
            anywhere = "0.0.0.0/0" in yaml.safe_dump(rule)
            component = (
                one["spec"]["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/component")
            )
            chosen = one["metadata"]["name"].endswith("-api-server-public")
            if anywhere and component != "weights" and not chosen:
                yield f"{named(one)}: may leave the cluster"
            if not inside and not rule.get("ports"):
                yield f"{named(one)}: every port of addresses outside"
    cluster = ray_service(manifests)["spec"]["rayClusterConfig"]
    if cluster.get("authOptions", {}).get("mode") != "token":
        yield "authOptions.mode is not token: whoever reaches the dashboard runs code"
    if cluster["headGroupSpec"].get("enableIngress"):
        yield "headGroupSpec.enableIngress: the dashboard on the internet"


# Where Ray takes code to run: the dashboard with its job API, the GCS, Ray's client and agents.
RUNS_CODE = {8265, 6379, 10001, 52365}
OPERATOR = {"app.kubernetes.io/component": "kuberay-operator"}


def only_the_operator_reaches_the_dashboard(manifests: list[Manifest]) -> Iterator[str]:
    ray = [group["template"]["metadata"]["labels"] for group in groups(manifests)]
    for one in of_kind(manifests, "NetworkPolicy"):
        if not any(_selects(one["spec"]["podSelector"], labels) for labels in ray):
            continue
        for rule in one["spec"].get("ingress", []):
            ports = {port["port"] for port in rule.get("ports", [])}
            ranges = any("endPort" in port for port in rule.get("ports", []))
            if ports and not ports & RUNS_CODE and not ranges:
                continue
            for peer in rule.get("from", [{}]):
                selector = peer.get("podSelector", {})
                ours = selector and all(
                    labels in ray
                    for template in pod_templates(manifests).values()
                    if _selects(selector, labels := template["metadata"]["labels"])
                )
                itself = ours and "namespaceSelector" not in peer
                operator = ports == {8265} and selector.get("matchLabels") == OPERATOR
                if not itself and not operator:
                    yield f"{named(one)}: others than the operator reach {sorted(ports) or 'all'}"
    for one in of_kind(manifests, "Service"):
        if one["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{named(one)}: {one['spec']['type']} opens it outside the cluster"
    for one in of_kind(manifests, "Ingress"):
        yield f"{named(one)}: a way in beside the Gateway"
    for route in of_kind(manifests, "HTTPRoute"):
        for rule in route["spec"]["rules"]:
            paths = [match.get("path") for match in rule.get("matches", [{}])]
            if paths != [{"type": "PathPrefix", "value": "/v1"}]:
                yield f"HTTPRoute: lets more through than /v1: {paths}"
            for backend in rule["backendRefs"]:
                if backend["port"] != 8000:
                    yield f"HTTPRoute: leads to port {backend['port']}"


def the_head_can_restart_alone(manifests: list[Manifest]) -> Iterator[str]:
    spec = ray_service(manifests)["spec"]
    if spec.get("excludeHeadPodFromServeSvc") is not True:
        yield "excludeHeadPodFromServeSvc is not true"
    if spec["rayClusterConfig"]["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        yield "the head offers CPUs, so replicas are placed on it"
    config = serve_config(manifests)
    if config["proxy_location"] != "EveryNode":
        yield "proxy_location: the workers have no proxy, and the head's gets no requests"
    for one in config["applications"][0]["deployments"]:
        if not one.get("ray_actor_options", {}).get("num_cpus"):
            yield f"{one['name']}: asks for no CPU, so it may be placed on the head"
    if "gcsFaultToleranceOptions" not in spec["rayClusterConfig"]:
        return
    # Autoscaler v2 makes another pod of a dead head; without a service of its own, KubeRay's is
    # headless, and its name means another address then.
    service = spec["rayClusterConfig"]["headGroupSpec"].get("headService", {})
    if service.get("spec", {}).get("type") != "ClusterIP" or "clusterIP" in service["spec"]:
        yield "headService: the next head has another address, and its replicas are given up"
    elif service["spec"].get("publishNotReadyAddresses") is not True:
        yield "headService: workers find the next head only after its first probe"
    if "name" in service.get("metadata", {}):
        yield "headService: KubeRay refuses a name"


def workers_carry_the_replicas(manifests: list[Manifest]) -> Iterator[str]:
    """Every deployment's most replicas, and what a rolling update adds, fit the worker groups."""
    workers = groups(manifests)[1:]
    gpus = {group["groupName"]: _resource(group, "nvidia.com/gpu") for group in workers}
    needed: dict[str, float] = dict.fromkeys(gpus, 0.0)
    rolling = needed.copy()
    for one in serve_config(manifests)["applications"][0]["deployments"]:
        options = one.get("ray_actor_options", {})
        if not options.get("num_gpus"):
            continue
        scaling = one.get("autoscaling_config", {})
        most = scaling.get("max_replicas", one.get("num_replicas", 1))
        wanted = options.get("label_selector", {})
        able = [
            group["groupName"]
            for group in workers
            if wanted.items() <= group.get("labels", {}).items() and gpus[group["groupName"]]
        ]
        if not able:
            yield f"{one['name']}: no worker group with a GPU and the labels {wanted}"
            continue
        # Variants that share a worker roll one after another, each through the same free part.
        surge = math.ceil(most * one.get("max_surge_percent", 0) / 100)
        if not surge:
            yield f"{one['name']}: max_surge_percent 0 stops the old replica first"
        if options["num_gpus"] < 1:
            needed[able[0]] += most * options["num_gpus"]
            rolling[able[0]] = max(rolling[able[0]], surge * options["num_gpus"])
        else:
            room = sum(
                group["maxReplicas"] * gpus[group["groupName"]]
                for group in workers
                if group["groupName"] in able
            )
            if (most + surge) * options["num_gpus"] > room:
                yield f"{one['name']}: {most} replicas and {surge} while rolling, on {room:g} GPUs"
        least = scaling.get("min_replicas", one.get("num_replicas", 1))
        start = sum(group["minReplicas"] for group in workers if group["groupName"] in able)
        if options["num_gpus"] >= 1 and start != least:
            yield f"{one['name']}: min_replicas {least}, but {start} workers at least"
    for group in workers:
        room = group["maxReplicas"] * gpus[group["groupName"]]
        most = needed[group["groupName"]] + rolling[group["groupName"]]
        if round(most, 6) > room:
            yield f"{group['groupName']}: fractions of {room:g} GPUs leave none free for rolling"


def workers_have_the_cores(manifests: list[Manifest]) -> Iterator[str]:
    """What the deployments ask for at least, routers included, fits the least workers."""
    deployments = serve_config(manifests)["applications"][0]["deployments"]
    needed = sum(
        one.get("autoscaling_config", {}).get("min_replicas", one.get("num_replicas", 1))
        * one["ray_actor_options"]["num_cpus"]
        for one in deployments
    )
    # KubeRay tells Ray whole cores, rounded up.
    room = sum(
        group["minReplicas"]
        * math.ceil(_cpu(group["template"]["spec"]["containers"][0]["resources"]["requests"]))
        for group in groups(manifests)[1:]
    )
    if round(needed, 6) > room:
        yield f"the deployments ask for {needed:g} CPUs, the workers have {room}"


def _cpu(resources: Manifest) -> float:
    cpu = str(resources["cpu"])
    return int(cpu[:-1]) / 1000 if cpu.endswith("m") else float(cpu)


def a_node_drain_leaves_every_group_a_worker(manifests: list[Manifest]) -> Iterator[str]:
    budgets = of_kind(manifests, "PodDisruptionBudget")
    pods = pod_labels(manifests)
    for one in budgets:
        found = [
            where for where, labels in pods.items() if _selects(one["spec"]["selector"], labels)
        ]
        if len(found) != 1:
            yield f"{named(one)}: counts {found} together"
    least = {
        f"RayService, {group['groupName']}": group["minReplicas"] for group in groups(manifests)[1:]
    }
    for where, labels in pods.items():
        kept = [
            one["spec"].get("minAvailable")
            for one in budgets
            if _selects(one["spec"]["selector"], labels)
        ]
        wanted = [1] if least.get(where, 1) > 1 else []
        if kept != wanted:
            yield f"{where}: budgets keep {kept} of at least {least.get(where, 1)}, not {wanted}"


def _resource(group: Manifest, name: str) -> float:
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    return float(limits.get(name, 0))


def the_weights_are_where_they_are_looked_for(manifests: list[Manifest]) -> Iterator[str]:
    args = serve_config(manifests)["applications"][0]["args"]
    folder = args.get("weights_dir")
    if folder is None:
        return
    for group in groups(manifests):
        mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
        above = [one for one in mounts if folder.startswith(one["mountPath"] + "/")]
        if [one.get("readOnly") for one in above] != [True]:
            yield f"{group.get('groupName', 'head')}: {folder} is not mounted read-only"
    if ray_environment(manifests).get("HF_HUB_OFFLINE") != "1":
        yield "HF_HUB_OFFLINE is not 1: servers would ask the hub"
    jobs = [one for one in of_kind(manifests, "Job") if "serve.weights" in yaml.safe_dump(one)]
    volumes = [
        one
        for group in groups(manifests)
        for one in group["template"]["spec"]["volumes"]
        if one["name"] == "weights"
    ]
    if all("image" in one for one in volumes) and not jobs:
        return  # Filled, and compared with the manifest, where the image was built.
    if not any(folder in yaml.safe_dump(one) for one in jobs):
        yield f"no Job fills {folder}"
    if args.get("safety_checker", False) != any(
        "--safety-checker" in yaml.safe_dump(one) for one in jobs
    ):
        yield "the weights Job and the serve configuration differ in the safety checker"
    downloaded: set[str] = set()
    for container in (each for one in jobs for each in containers(one["spec"]["template"])):
        if "download" in (command := container["command"]):
            named = [one.split("=")[1] for one in command if one.startswith("--variants=")]
            default = family(args["family"]).default_variants
            # argparse takes the last.
            downloaded |= {*(named[-1].split(",") if named else default)}
    for name in {*args.get("variants", ())} - downloaded:
        yield f"the weights Job doesn't download {name}"


def the_catalogue_is_where_it_is_looked_for(manifests: list[Manifest]) -> Iterator[str]:
    """Whatever reads the catalogue has its ConfigMap mounted, and reads the same one."""
    file = serve_config(manifests)["applications"][0]["args"].get("catalogue")
    for where, template in pod_templates(manifests).items():
        maps = {one["name"] for one in template["spec"].get("volumes", []) if "configMap" in one}
        for container in containers(template):
            command = container.get("command", [])
            if "serve.weights" in command:
                read = [one for one in command if one.startswith("--catalogue")]
                if read != [f"--catalogue={file}"] * bool(file):
                    yield f"{where}, {container['name']}: reads {read}, the application {file}"
            elif container["name"] not in ("ray-head", "ray-worker"):
                continue
            mounted = [
                (one["mountPath"], one.get("readOnly"))
                for one in container["volumeMounts"]
                if one["name"] in maps
            ]
            if mounted != ([(str(Path(file).parent), True)] if file else []):
                yield f"{where}, {container['name']}: mounts {mounted}, but needs {file}"


def what_hangs_is_given_up_in_time(manifests: list[Manifest]) -> Iterator[str]:
    """A device call that hangs is noticed while its requests can still be drawn elsewhere."""
    if ray_environment(manifests).get("RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS") != "1":
        yield "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS is not 1: an unhealthy replica would drain"
    config = serve_config(manifests)
    (application,) = config["applications"]
    if application["args"].get("device") != "cuda":
        return  # A step on a CPU may take that long.
    stuck_after_s = app_args(manifests).stuck_after_s
    timeout_s = config["http_options"]["request_timeout_s"]
    for one in application["deployments"]:
        if "health_check_period_s" not in one:
            continue
        noticed_s = stuck_after_s + _FAILED_CHECKS * one["health_check_period_s"]
        if noticed_s > timeout_s / 2:
            yield (
                f"{one['name']}: a device call that hangs is noticed after {noticed_s:g} s, over "
                f"half of request_timeout_s {timeout_s:g}"
            )


def the_keys_are_where_they_are_looked_for(manifests: list[Manifest]) -> Iterator[str]:
    """A file of keys is in a Secret's folder, mounted so that the kubelet renews it."""
    file = serve_config(manifests)["applications"][0]["args"].get("api_keys_file")
    for group in groups(manifests):
        where, spec = group.get("groupName", "head"), group["template"]["spec"]
        of_secrets = {one["name"]: one["secret"] for one in spec["volumes"] if "secret" in one}
        mounts = [one for one in spec["containers"][0]["volumeMounts"] if one["name"] in of_secrets]
        if file is None:
            if mounts:
                yield f"{where}: keys are mounted, but the serve configuration names no file"
            continue
        above = [one for one in mounts if file.startswith(one["mountPath"] + "/")]
        if [one.get("readOnly") for one in above] != [True]:
            yield f"{where}: {file} is not mounted read-only from a Secret"
            continue
        secret = of_secrets[above[0]["name"]]
        if secret.get("optional"):
            yield f"{where}: the pod doesn't wait for the keys"
        if secret.get("defaultMode", 0o644) & 0o007:
            yield f"{where}: everybody in the pod reads the keys"
        if "subPath" in above[0]:
            yield f"{where}: a subPath is never renewed"


SECRET_NAMES = re.compile(r"TOKEN|PASSWORD|SECRET|AUTH|API_?KEY", re.IGNORECASE)


def a_key_is_kept_from_shutting_others_out(manifests: list[Manifest]) -> Iterator[str]:
    """Where keys are required, one key's requests leave room in every variant's replicas."""
    (application,) = serve_config(manifests)["applications"]
    if application["args"].get("api_keys_file") is None:
        return
    each = application["args"].get("max_requests_per_key")
    if each is None:
        yield "max_requests_per_key is not in the file"
        return
    router, *variants = application["deployments"]
    most = each * router.get("num_replicas", 1)
    for one in variants:
        least = one.get("autoscaling_config", {}).get("min_replicas", one.get("num_replicas", 1))
        if most >= least * one["max_ongoing_requests"]:
            yield f"{one['name']}: one key's {most} requests fill its {least} replicas"


def auto_keeps_what_requests_outlive(manifests: list[Manifest]) -> Iterator[str]:
    args = app_args(manifests)
    if isinstance(args.auto, QualityFirstPolicy):
        longest_s = args.max_request_s or float("inf")
        if args.auto.slo_s >= longest_s:
            yield f"auto.slo_s: {args.auto.slo_s:g}, but no request may take {longest_s:g} s"


def nothing_secret_is_written_down(manifests: list[Manifest]) -> Iterator[str]:
    for one in of_kind(manifests, "Secret"):
        yield f"{named(one)}: a Secret is part of the kustomization"
    for one in of_kind(manifests, "ConfigMap"):
        for key, text in one["data"].items():
            if SECRET_NAMES.search(key):
                yield f"{named(one)}: {key} in a ConfigMap"
            if re.search(r"^\s*requirepass\s", text, re.M):
                yield f"{named(one)}: a password in {key}"
    for where, template in pod_templates(manifests).items():
        for container in containers(template):
            for variable in container.get("env", []):
                if SECRET_NAMES.search(variable["name"]) and "value" in variable:
                    yield f"{where}: {variable['name']} is a literal"
    options = ray_service(manifests)["spec"]["rayClusterConfig"].get("gcsFaultToleranceOptions", {})
    if "value" in options.get("redisPassword", {}):
        yield "gcsFaultToleranceOptions.redisPassword is a literal"


Check = Callable[[list[Manifest]], Iterator[str]]
# All that this module makes public; a check that has no planted fault fails a test.
CHECKS: list[Check] = [
    check
    for name, check in vars().copy().items()
    if inspect.isgeneratorfunction(check) and check.__module__ == __name__ and name[0] != "_"
]
