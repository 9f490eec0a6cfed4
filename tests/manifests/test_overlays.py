"""Every overlay holds to every check, and every check fails on a fault that is planted."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.config import AppArgs
from serve.http.body import MAX_BODY_BYTES
from serve.http.streaming import HEARTBEAT_S
from tests.manifests import checks
from tests.manifests.checks import CHECKS, Check
from tests.manifests.rendering import (
    NAMES,
    OPTIONAL,
    OVERLAYS,
    ROOT,
    Manifest,
    groups,
    of_kind,
    ray_service,
    rendered,
    serve_config,
    with_components,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_overlay(name: str, check: Check) -> None:
    assert list(check(rendered(name))) == []


@pytest.fixture(scope="module", params=OPTIONAL)
def with_optional(request: pytest.FixtureRequest, tmp_path_factory: Any) -> list[Manifest]:
    return with_components(tmp_path_factory.mktemp(request.param), "production", [request.param])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_production_with_an_optional_component(with_optional: list[Manifest], check: Check) -> None:
    assert list(check(with_optional)) == []


def test_every_component_is_rendered_by_some_test() -> None:
    included = [
        Path(one).name
        for path in (ROOT / "deploy").glob("overlays/*/kustomization.yaml")
        for one in yaml.safe_load(path.read_text()).get("components", [])
    ]
    components = {path.name for path in (ROOT / "deploy" / "components").iterdir()}
    assert components <= {*included, *OPTIONAL}


@pytest.mark.parametrize("name", NAMES)
def test_the_rendered_serve_config_is_the_file_byte_for_byte(name: str) -> None:
    text = (OVERLAYS / name / "serve-config.yaml").read_text()
    assert ray_service(rendered(name))["spec"]["serveConfigV2"] == text


def test_spot_workers_take_the_peaks_and_on_demand_workers_the_rest(tmp_path: Path) -> None:
    *_, on_demand, spot = groups(with_components(tmp_path, "production", ["spot"]))
    assert on_demand["minReplicas"] == on_demand["maxReplicas"] == 2
    assert (spot["minReplicas"], spot["maxReplicas"]) == (0, 5)
    assert spot["labels"] == on_demand["labels"]
    assert spot["priority"] < on_demand.get("priority", 0)


def test_load_tests_wait_until_they_are_started(tmp_path: Path) -> None:
    jobs = of_kind(with_components(tmp_path, "production", ["loadtest"]), "Job")
    loads = [one for one in jobs if one["metadata"]["name"].startswith("loadtest")]
    assert len(loads) == 3
    assert all(job["spec"]["suspend"] for job in loads)
    # The service's own image has no Locust.
    assert {
        container["image"]
        for job in loads
        for container in job["spec"]["template"]["spec"]["containers"]
    } == {f"distilled-sd-serve-loadtest:{version('distilled-sd-serve')}"}


def test_production_has_a_policy_for_auto_that_degrades() -> None:
    (application,) = serve_config(rendered("production"))["applications"]
    assert application["args"]["auto"]["kind"] == "quality-first"


def test_the_example_policies_let_streams_pass_and_limit_each_key() -> None:
    path = ROOT / "deploy" / "components" / "gateway" / "envoy-gateway.example.yaml"
    backend, client = (one["spec"] for one in yaml.safe_load_all(path.read_text()))
    rendered_names = {(one["kind"], one["metadata"]["name"]) for one in rendered("production")}
    for spec in (backend, client):
        (target,) = spec["targetRefs"]
        assert (target["kind"], target["name"]) in rendered_names
    # Requests are buffered as far as the service would read them, answers not at all.
    assert backend["requestBuffer"]["limit"] == f"{MAX_BODY_BYTES // 1024}Ki"
    assert set(backend) == {"targetRefs", "requestBuffer", "rateLimit"}
    (rule,) = backend["rateLimit"]["global"]["rules"]
    (selector,) = rule["clientSelectors"]
    assert selector["headers"] == [{"name": "Authorization", "type": "Distinct"}]
    timeouts_s = {
        name: float(text.removesuffix("s")) for name, text in client["timeout"]["http"].items()
    }
    body_timeout_s = AppArgs.model_fields["body_timeout_s"].default
    assert timeouts_s["requestReceivedTimeout"] > body_timeout_s
    assert timeouts_s["idleTimeout"] > HEARTBEAT_S


def test_example_secrets_are_empty_and_part_of_no_overlay() -> None:
    examples = [
        one
        for path in (ROOT / "deploy").rglob("*secret*.example.yaml")
        for one in yaml.safe_load_all(path.read_text())
    ]
    assert {one["metadata"]["name"] for one in examples} == {
        "distilled-sd-serve-keys",
        "distilled-sd-serve-ray-token",
        "distilled-sd-serve-redis",
    }
    for one in examples:
        assert set(one["stringData"].values()) == {""}, one["metadata"]["name"]
    referenced = {
        name for kind, name in checks._referenced(rendered("production")) if kind == "Secret"
    }
    options = ray_service(rendered("production"))["spec"]["rayClusterConfig"]["authOptions"]
    # The hub's token is optional, and described where it is used.
    assert referenced | {options["secretName"]} == {
        *(one["metadata"]["name"] for one in examples),
        "distilled-sd-serve-hub",
    }


# Planted faults -------------------------------------------------------------------------------

Plant = Callable[[list[Manifest]], None]


def cluster(manifests: list[Manifest]) -> Manifest:
    config: Manifest = ray_service(manifests)["spec"]["rayClusterConfig"]
    return config


def ray_pod(manifests: list[Manifest], index: int = 0) -> Manifest:
    """The pod of the head (0) or of a worker group."""
    spec: Manifest = groups(manifests)[index]["template"]["spec"]
    return spec


def in_serve_config(change: Callable[[Manifest], object]) -> Plant:
    def plant(manifests: list[Manifest]) -> None:
        content = serve_config(manifests)
        change(content)
        ray_service(manifests)["spec"]["serveConfigV2"] = yaml.safe_dump(content)

    return plant


def in_deployment(index: int, **changes: Any) -> Plant:
    return in_serve_config(
        lambda config: config["applications"][0]["deployments"][index].update(changes)
    )


def in_ray_environment(**changes: str) -> Plant:
    return lambda manifests: checks.ray_environment(manifests).update(changes)


def the(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    (one,) = [one for one in of_kind(manifests, kind) if one["metadata"]["name"].endswith(name)]
    return one


def without(name: str) -> Plant:
    return lambda manifests: manifests.remove(
        next(one for one in manifests if f"{one['kind']} {one['metadata']['name']}" == name)
    )


SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}
FAULTS: list[tuple[Check, str, Plant, str]] = [
    (checks.core_kinds_fit_their_schemas, "misspelt field",
     lambda m: the(m, "DaemonSet")["spec"].update(updateStratgy={}), "updateStratgy"),
    (checks.core_kinds_fit_their_schemas, "kind that Kubernetes doesn't have",
     lambda m: the(m, "DaemonSet").update(kind="DeamonSet"), "not a kind"),
    (checks.the_ray_service_fits_the_crd, "misspelt field",
     lambda m: cluster(m).update(enableInTreeAutoscalling=True), "enableInTreeAutoscalling"),
    (checks.the_ray_service_fits_the_crd, "misspelt field deep in a pod",
     lambda m: ray_pod(m, 1)["containers"][0]["readinessProbe"].update(timeoutSecond=5),
     "timeoutSecond"),
    (checks.the_ray_service_fits_the_crd, "number in a map of strings",
     lambda m: groups(m)[0]["rayStartParams"].update({"num-cpus": 0}), "num-cpus"),
    (checks.the_ray_service_fits_the_crd, "unknown autoscaler",
     lambda m: cluster(m)["autoscalerOptions"].update(version="v3"), "v3"),
    (checks.the_ray_service_fits_the_crd, "bad quantity",
     lambda m: ray_pod(m)["containers"][0]["resources"]["limits"].update(memory="8 GB"), "8 GB"),
    (checks.what_the_crd_leaves_open_is_right, "misspelt upgrade strategy",
     lambda m: ray_service(m)["spec"]["upgradeStrategy"].update(type="BlueGreen"), "BlueGreen"),
    (checks.what_the_crd_leaves_open_is_right, "option that ray start lacks",
     lambda m: groups(m)[1]["rayStartParams"].update({"num-cpu": "1"}), "--num-cpu"),
    (checks.the_serve_config_is_serves, "misspelt key",
     in_deployment(1, max_ongoing_request=8), "max_ongoing_request: unknown"),
    (checks.the_serve_config_is_serves, "misspelt key in the autoscaling",
     in_deployment(1, autoscaling_config={"max_replica": 2}), "max_replica: unknown"),
    (checks.the_serve_config_is_serves, "misspelt key in the actor's options",
     in_deployment(1, ray_actor_options={"num_gpu": 1}), "num_gpu: unknown"),
    (checks.the_serve_config_is_serves, "misspelt key of HTTP",
     in_serve_config(lambda c: c["http_options"].update(request_timeout=5)), "request_timeout: "),
    (checks.the_serve_config_is_serves, "misspelt key of the logging",
     in_serve_config(lambda c: c.update(loging_config={})), "loging_config: unknown"),
    (checks.the_app_builds_from_the_serve_config, "unknown argument",
     in_serve_config(lambda c: c["applications"][0]["args"].update(weights="x")), "weights"),
    (checks.the_app_builds_from_the_serve_config, "deployment that isn't a variant",
     in_deployment(1, name="orginal"), "'orginal': not in the application"),
    (checks.the_app_builds_from_the_serve_config, "variant without a deployment",
     in_serve_config(lambda c: c["applications"][0]["deployments"].pop()),
     "'distilled-tiny-vae': not in the file"),
    (checks.the_drain_chain_holds, "request longer than the replica's end",
     in_serve_config(lambda c: c["http_options"].update(request_timeout_s=131)),
     "request_timeout_s 131"),
    (checks.the_drain_chain_holds, "replica longer than Ray's drain",
     in_deployment(3, graceful_shutdown_timeout_s=151), "drain timeout 150"),
    (checks.the_drain_chain_holds, "replica's end left to the code",
     in_serve_config(
         lambda c: c["applications"][0]["deployments"][2].pop("graceful_shutdown_timeout_s")),
     "is not in the file"),
    (checks.the_drain_chain_holds, "drain as long as the pod's end",
     lambda m: ray_pod(m, 2).update(terminationGracePeriodSeconds=150),
     "terminationGracePeriodSeconds 150"),
    (checks.the_drain_chain_holds, "drain timeout from elsewhere",
     lambda m: ray_pod(m, 1)["containers"][0]["env"].pop(0), "no literal"),
    (checks.the_drain_chain_holds, "cluster deleted before its pods end",
     lambda m: ray_service(m)["spec"].update(rayClusterDeletionDelaySeconds=60),
     "rayClusterDeletionDelaySeconds 60"),
    (checks.the_drain_chain_holds, "preStop hook",
     lambda m: ray_pod(m, 1)["containers"][0].update(
         lifecycle={"preStop": {"exec": {"command": ["ray", "stop"]}}}), "preStop"),
    (checks.everything_before_the_service_waits_longer, "gateway's timeout",
     lambda m: the(m, "HTTPRoute")["spec"]["rules"][0]["timeouts"].update(request="15s"), "15s"),
    (checks.everything_before_the_service_waits_longer, "gateway's own timeout",
     lambda m: the(m, "HTTPRoute")["spec"]["rules"][0].pop("timeouts"), "timeouts.request 0s"),
    (checks.everything_before_the_service_waits_longer, "requests that outlive Serve's patience",
     in_serve_config(lambda c: c["applications"][0]["args"].update(max_request_s=120)),
     "max_request_s: 120"),
    (checks.everything_before_the_service_waits_longer, "streams cut off between heartbeats",
     in_ray_environment(RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S="10"), "between heartbeats"),
    (checks.everything_before_the_service_waits_longer, "header that lifts the timeout",
     lambda m: the(m, "HTTPRoute")["spec"]["rules"][0].pop("filters"),
     "lets clients send x-request-timeout-seconds"),
    (checks.everything_before_the_service_waits_longer, "HAProxy's reload",
     in_ray_environment(RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S="120"), "HARD_STOP"),
    (checks.everything_before_the_service_waits_longer, "clients that take an hour",
     lambda m: checks.ray_environment(m).pop("RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"),
     "CLIENT_S: 3600"),
    (checks.everything_before_the_service_waits_longer, "clients cut off before the body is late",
     in_serve_config(lambda c: c["applications"][0]["args"].update(body_timeout_s=30)),
     "over body_timeout_s"),
    (checks.everything_before_the_service_waits_longer, "buckets end too early",
     in_ray_environment(RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS="100,1000,60000"), "BUCKETS"),
    (checks.answers_and_logs_cross_serve_whole, "gRPC's own limit",
     lambda m: checks.ray_environment(m).pop("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH"),
     "MAX_MESSAGE_LENGTH: 4194304"),
    (checks.answers_and_logs_cross_serve_whole, "log lines held back",
     lambda m: checks.ray_environment(m).pop("RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE"),
     "LOG_BUFFER_SIZE: must be 1"),
    *[(checks.pods_are_restricted, f"worker's {field}",
       lambda m, field=field: ray_pod(m, 1)["containers"][0]["securityContext"].pop(field),
       f"original, ray-worker: securityContext.{field}")
      for field in checks.CONTAINER_SECURITY],
    *[(checks.pods_are_restricted, f"head pod's {field}",
       lambda m, field=field: ray_pod(m)["securityContext"].pop(field),
       f"head: securityContext.{field}")
      for field in (*checks.POD_SECURITY, "runAsUser")],
    *[(checks.pods_are_restricted, f"writable {path} missing",
       lambda m, path=path: ray_pod(m, 1).update(volumes=[
           one for one in ray_pod(m, 1)["volumes"]
           if one["name"] != next(mount["name"] for mount in
                                  ray_pod(m, 1)["containers"][0]["volumeMounts"]
                                  if mount["mountPath"] == path)]),
       f"original: {path} is no emptyDir")
      for path in sorted(checks.RAY_WRITES_TO)],
    (checks.pods_are_restricted, "init container", lambda m: ray_pod(m)["initContainers"][0].pop(
        "securityContext"), "wait-for-weights: securityContext"),
    (checks.pods_are_restricted, "autoscaler",
     lambda m: cluster(m)["autoscalerOptions"].pop("securityContext"), "autoscalerOptions"),
    (checks.pods_are_restricted, "added capability",
     lambda m: ray_pod(m, 1)["containers"][0]["securityContext"].update(
         capabilities={"drop": ["ALL"], "add": ["SYS_PTRACE"]}), "added capabilities"),
    (checks.pods_are_restricted, "host's network",
     lambda m: ray_pod(m, 1).update(hostNetwork=True), "hostNetwork"),
    (checks.pods_are_restricted, "host's files",
     lambda m: ray_pod(m, 1)["volumes"].append({"name": "x", "hostPath": {"path": "/"}}),
     "hostPath"),
    (checks.pods_are_restricted, "API token",
     lambda m: ray_pod(m, 1).update(automountServiceAccountToken=True), "automount"),
    (checks.pods_are_restricted, "shm on a disk",
     lambda m: ray_pod(m, 1)["volumes"][3].update(emptyDir={}), "not in memory"),
    (checks.pods_are_restricted, "HOME left to the image",
     lambda m: ray_pod(m, 1)["containers"][0]["env"].pop(), "HOME"),
    (checks.pods_are_restricted, "no memory limit",
     lambda m: the(m, "Job")["spec"]["template"]["spec"]["containers"][0]["resources"].pop(
         "limits"), "no memory limit"),
    (checks.pods_are_restricted, "no requests",
     lambda m: the(m, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["resources"].pop(
         "requests"), "no request for"),
    (checks.pods_are_restricted, "namespace that lets everything in",
     lambda m: the(m, "Namespace")["metadata"]["labels"].clear(), "Namespace"),
    (checks.versions_are_equal_everywhere, "older Ray",
     lambda m: cluster(m).update(rayVersion="2.59.0"), "2.59.0"),
    (checks.versions_are_equal_everywhere, "latest",
     lambda m: ray_pod(m, 1)["containers"][0].update(image="distilled-sd-serve:latest"),
     "no exact tag"),
    (checks.versions_are_equal_everywhere, "no tag",
     lambda m: the(m, "StatefulSet")["spec"]["template"]["spec"]["containers"][0].update(
         image="redis"), "no exact tag"),
    (checks.versions_are_equal_everywhere, "another release's image",
     lambda m: ray_pod(m, 1)["containers"][0].update(image="distilled-sd-serve:0.0.9-cuda"),
     "0.0.9-cuda"),
    (checks.versions_are_equal_everywhere, "the CPU's image on a GPU",
     lambda m: ray_pod(m, 1)["containers"][0].update(image="distilled-sd-serve:0.1.0-cpu"),
     "0.1.0-cpu"),
    (checks.references_meet, "ConfigMap", lambda m: the(m, "ConfigMap", "dashboard") and m.remove(
        next(o for o in m if o["metadata"]["name"].startswith("ray-env"))), "no ConfigMap ray-env"),
    (checks.references_meet, "claim",
     without("PersistentVolumeClaim distilled-sd-serve-weights"), "no PersistentVolumeClaim"),
    (checks.references_meet, "account",
     without("ServiceAccount distilled-sd-serve-head"), "no ServiceAccount"),
    (checks.references_meet, "volume", lambda m: ray_pod(m, 1)["volumes"].pop(), "no volume"),
    (checks.references_meet, "Redis",
     without("Service distilled-sd-serve-redis"), "no Service distilled-sd-serve-redis"),
    (checks.references_meet, "gateway", without("Gateway distilled-sd-serve"), "no Gateway"),
    (checks.references_meet, "Service of the route",
     lambda m: the(m, "HTTPRoute")["spec"]["rules"][0]["backendRefs"][0].update(name="x"),
     "no Service x"),
    (checks.references_meet, "namespace",
     lambda m: the(m, "HTTPRoute")["metadata"].pop("namespace"), "no namespace"),
    (checks.labels_and_selectors_meet, "policy",
     lambda m: the(m, "NetworkPolicy", "operator")["spec"]["podSelector"]["matchLabels"].update(
         {"app.kubernetes.io/component": "haed"}), "operator: selects none"),
    (checks.labels_and_selectors_meet, "policy's peer",
     lambda m: the(m, "NetworkPolicy", "to-redis")["spec"]["egress"][0]["to"][0]["podSelector"][
         "matchLabels"].update(x="y"), "to-redis: selects none"),
    (checks.labels_and_selectors_meet, "budget",
     lambda m: the(m, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].update(x="y"),
     "PodDisruptionBudget"),
    (checks.labels_and_selectors_meet, "monitor",
     lambda m: the(m, "PodMonitor", "head")["spec"]["selector"]["matchLabels"].update(x="y"),
     "PodMonitor"),
    (checks.labels_and_selectors_meet, "Service",
     lambda m: the(m, "Service")["spec"]["selector"].update(x="y"), "Service"),
    (checks.labels_and_selectors_meet, "spread",
     lambda m: ray_pod(m, 1)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"].update(
         x="y"), "spreads other pods"),
    (checks.labels_and_selectors_meet, "replicas' workers",
     in_deployment(1, ray_actor_options={"label_selector": {"serves-orginal": "true"}}),
     "serves-orginal"),
    (checks.ports_are_named_and_open, "dashboard without its name",
     lambda m: ray_pod(m)["containers"][0]["ports"][1].update(name="dash"), "'dashboard'"),
    (checks.ports_are_named_and_open, "serve without its name",
     lambda m: ray_pod(m)["containers"][0]["ports"][2].update(name="http"), "'serve'"),
    (checks.ports_are_named_and_open, "another port than the proxies'",
     in_serve_config(lambda c: c["http_options"].update(port=8001)), "http_options.port, 8001"),
    (checks.ports_are_named_and_open, "probe",
     lambda m: ray_pod(m, 1)["containers"][0]["readinessProbe"]["httpGet"].update(port="http"),
     "readinessProbe asks"),
    (checks.ports_are_named_and_open, "monitored port",
     lambda m: the(m, "PodMonitor", "workers")["spec"]["podMetricsEndpoints"][0].update(
         port="metric"), "'metric'"),
    (checks.ports_are_named_and_open, "opened port",
     lambda m: the(m, "NetworkPolicy", "gateway")["spec"]["ingress"][0]["ports"][0].update(
         port=8001), "listens on 8001"),
    (checks.nobody_reaches_more_than_needed, "nothing denied",
     without("NetworkPolicy distilled-sd-serve-deny"), "nothing refuses"),
    (checks.nobody_reaches_more_than_needed, "open to everybody",
     lambda m: the(m, "NetworkPolicy", "gateway")["spec"]["ingress"][0].pop("from"),
     "open to everybody"),
    (checks.nobody_reaches_more_than_needed, "every port",
     lambda m: the(m, "NetworkPolicy", "operator")["spec"]["ingress"][0].pop("ports"),
     "opens every port"),
    (checks.nobody_reaches_more_than_needed, "a server that reaches the internet",
     lambda m: the(m, "NetworkPolicy", "server")["spec"]["egress"][0].update(
         to=[{"ipBlock": {"cidr": "0.0.0.0/0"}}]), "may leave the cluster"),
    (checks.nobody_reaches_more_than_needed, "no token",
     lambda m: cluster(m)["authOptions"].update(mode="disabled"), "authOptions"),
    (checks.nobody_reaches_more_than_needed, "dashboard outside",
     lambda m: cluster(m)["headGroupSpec"].update(enableIngress=True), "enableIngress"),
    (checks.only_the_operator_reaches_the_dashboard, "gateway to the dashboard",
     lambda m: the(m, "NetworkPolicy", "gateway")["spec"].update(
         podSelector={"matchLabels": {"app.kubernetes.io/component": "head"}},
         ingress=[{"from": [{"namespaceSelector": {}}], "ports": [{"port": 8265}]}]),
     "others than the operator reach [8265]"),
    (checks.only_the_operator_reaches_the_dashboard, "operator to the GCS",
     lambda m: the(m, "NetworkPolicy", "operator")["spec"]["ingress"][0].update(
         ports=[{"port": 8265}, {"port": 6379}]), "reach [6379, 8265]"),
    (checks.only_the_operator_reaches_the_dashboard, "Redis's pods among Ray's",
     lambda m: the(m, "NetworkPolicy", "serve-ray")["spec"]["ingress"][0]["from"].append(
         {"podSelector": {"matchLabels": {"app.kubernetes.io/component": "redis"}}}),
     "reach all"),
    (checks.only_the_operator_reaches_the_dashboard, "a range of ports",
     lambda m: the(m, "NetworkPolicy", "monitoring")["spec"]["ingress"][0].update(
         ports=[{"port": 8000, "endPort": 9000}]), "reach [8000]"),
    (checks.only_the_operator_reaches_the_dashboard, "node port",
     lambda m: the(m, "Service")["spec"].update(type="NodePort"), "NodePort"),
    (checks.only_the_operator_reaches_the_dashboard, "Serve's own routes",
     lambda m: the(m, "HTTPRoute")["spec"]["rules"][0]["matches"][0]["path"].update(value="/"),
     "more through than /v1"),
    (checks.only_the_operator_reaches_the_dashboard, "route to the dashboard",
     lambda m: the(m, "HTTPRoute")["spec"]["rules"][0]["backendRefs"][0].update(port=8265),
     "port 8265"),
    (checks.the_head_can_restart_alone, "requests through the head",
     lambda m: ray_service(m)["spec"].pop("excludeHeadPodFromServeSvc"), "excludeHead"),
    (checks.the_head_can_restart_alone, "replicas on the head",
     lambda m: groups(m)[0]["rayStartParams"].pop("num-cpus"), "offers CPUs"),
    (checks.the_head_can_restart_alone, "router on the head",
     in_deployment(0, ray_actor_options={"num_cpus": 0}), "router: asks for no CPU"),
    (checks.the_head_can_restart_alone, "workers without a proxy",
     in_serve_config(lambda c: c.update(proxy_location="HeadOnly")), "proxy_location"),
    (checks.the_head_can_restart_alone, "head without an address",
     lambda m: groups(m)[0].pop("headService"), "the next head has another address"),
    (checks.the_head_can_restart_alone, "headless",
     lambda m: groups(m)[0]["headService"]["spec"].update(clusterIP="None"),
     "the next head has another address"),
    (checks.the_head_can_restart_alone, "head found late",
     lambda m: groups(m)[0]["headService"]["spec"].pop("publishNotReadyAddresses"),
     "only after its first probe"),
    (checks.the_head_can_restart_alone, "head's service named",
     lambda m: groups(m)[0]["headService"].update(metadata={"name": "x"}), "refuses a name"),
    (checks.workers_carry_the_replicas, "no room to roll",
     lambda m: groups(m)[1].update(maxReplicas=4), "4 replicas and 1 while rolling"),
    (checks.workers_carry_the_replicas, "fewer workers than replicas",
     lambda m: groups(m)[1].update(minReplicas=1), "min_replicas 2, but 1 workers"),
    (checks.workers_carry_the_replicas, "old replica stopped first",
     in_deployment(1, max_surge_percent=0), "max_surge_percent 0"),
    (checks.workers_carry_the_replicas, "worker without a GPU",
     lambda m: ray_pod(m, 1)["containers"][0]["resources"]["limits"].pop("nvidia.com/gpu"),
     "no worker group with a GPU"),
    (checks.workers_carry_the_replicas, "budget that blocks every drain",
     lambda m: the(m, "PodDisruptionBudget")["spec"].update(minAvailable=6), "blocks every drain"),
    (checks.the_weights_are_where_they_are_looked_for, "writable",
     lambda m: [one.pop("readOnly", 0) for one in ray_pod(m, 2)["containers"][0]["volumeMounts"]],
     "not mounted read-only"),
    (checks.the_weights_are_where_they_are_looked_for, "another folder",
     in_serve_config(lambda c: c["applications"][0]["args"].update(weights_dir="/weights/other")),
     "no Job fills /weights/other"),
    (checks.the_weights_are_where_they_are_looked_for, "safety checker not downloaded",
     lambda m: the(m, "Job")["spec"]["template"]["spec"]["initContainers"][0]["command"].remove(
         "--safety-checker"), "differ in the safety checker"),
    (checks.the_weights_are_where_they_are_looked_for, "safety checker for nothing",
     in_serve_config(lambda c: c["applications"][0]["args"].pop("safety_checker")),
     "differ in the safety checker"),
    (checks.the_weights_are_where_they_are_looked_for, "hub while serving",
     in_ray_environment(HF_HUB_OFFLINE="0"), "HF_HUB_OFFLINE"),
    (checks.what_hangs_is_given_up_in_time, "unhealthy replicas drain",
     in_ray_environment(RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS="0"), "would drain"),
    (checks.what_hangs_is_given_up_in_time, "noticed too late",
     in_serve_config(lambda c: c["applications"][0]["args"].pop("stuck_after_s")),
     "original: a device call that hangs is noticed after 150 s"),
    (checks.the_keys_are_where_they_are_looked_for, "not mounted in a worker",
     lambda m: ray_pod(m, 2)["containers"][0]["volumeMounts"].pop(), "distilled: /keys/keys.txt"),
    (checks.the_keys_are_where_they_are_looked_for, "another file",
     in_serve_config(lambda c: c["applications"][0]["args"].update(api_keys_file="/kyes/k")),
     "head: /kyes/k is not mounted"),
    (checks.the_keys_are_where_they_are_looked_for, "writable",
     lambda m: ray_pod(m)["containers"][0]["volumeMounts"][-1].pop("readOnly"), "not mounted read"),
    (checks.the_keys_are_where_they_are_looked_for, "not from a Secret",
     lambda m: ray_pod(m, 1)["volumes"].__setitem__(-1, {"name": "api-keys", "emptyDir": {}}),
     "original: /keys/keys.txt is not"),
    (checks.the_keys_are_where_they_are_looked_for, "pod that doesn't wait",
     lambda m: ray_pod(m, 1)["volumes"][-1]["secret"].update(optional=True), "doesn't wait"),
    (checks.the_keys_are_where_they_are_looked_for, "readable for everybody",
     lambda m: ray_pod(m, 1)["volumes"][-1]["secret"].pop("defaultMode"), "everybody in the pod"),
    (checks.the_keys_are_where_they_are_looked_for, "never renewed",
     lambda m: ray_pod(m, 1)["containers"][0]["volumeMounts"][-1].update(subPath="keys.txt"),
     "never renewed"),
    (checks.the_keys_are_where_they_are_looked_for, "mounted, but not asked for",
     in_serve_config(lambda c: c["applications"][0]["args"].pop("api_keys_file")), "names no file"),
    (checks.a_key_is_kept_from_shutting_others_out, "no limit",
     in_serve_config(lambda c: c["applications"][0]["args"].pop("max_requests_per_key")),
     "max_requests_per_key is not in the file"),
    (checks.a_key_is_kept_from_shutting_others_out, "limit that fills a variant",
     in_serve_config(lambda c: c["applications"][0]["args"].update(max_requests_per_key=43)),
     "original: one key's 129 requests fill its 2 replicas"),
    (checks.auto_keeps_what_requests_outlive, "an SLO that no request may take",
     in_serve_config(lambda c: c["applications"][0]["args"]["auto"].update(slo_s=115)),
     "auto.slo_s: 115"),
    (checks.nothing_secret_is_written_down, "Secret",
     lambda m: m.append(SECRET), "part of the kustomization"),
    (checks.nothing_secret_is_written_down, "token as a literal",
     lambda m: ray_pod(m)["containers"][0]["env"].append({"name": "RAY_AUTH_TOKEN", "value": "x"}),
     "RAY_AUTH_TOKEN is a literal"),
    (checks.nothing_secret_is_written_down, "token in the environment's file",
     in_ray_environment(HF_TOKEN="x"), "HF_TOKEN in a ConfigMap"),
    (checks.nothing_secret_is_written_down, "password in a configuration",
     lambda m: next(one for one in of_kind(m, "ConfigMap") if "redis.conf" in one["data"])[
         "data"].update({"redis.conf": "requirepass x"}), "a password in redis.conf"),
    (checks.nothing_secret_is_written_down, "Redis's password",
     lambda m: cluster(m)["gcsFaultToleranceOptions"].update(redisPassword={"value": "x"}),
     "redisPassword is a literal"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "plant", "complaint"),
    [
        pytest.param(check, plant, complaint, id=f"{check.__name__}-{fault.replace(' ', '_')}")
        for check, fault, plant, complaint in FAULTS
    ],
)
def test_a_planted_fault_is_found(check: Check, plant: Plant, complaint: str) -> None:
    manifests = rendered("production")
    plant(manifests)
    assert any(complaint in one for one in check(manifests))


def test_fractions_without_room_to_roll_are_found() -> None:
    manifests = rendered("gpu-fractional")
    for index in (1, 2, 3):
        in_deployment(index, ray_actor_options={"num_cpus": 1, "num_gpus": 0.33})(manifests)
    found = list(checks.workers_carry_the_replicas(manifests))
    assert found == ["shared-gpu: fractions of 1 GPUs leave none free for rolling"]


def test_every_check_has_a_planted_fault() -> None:
    assert {check for check, *_ in FAULTS} == set(CHECKS)


def test_without_the_crds_the_check_is_skipped_and_says_where_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "CRD_FOLDERS", [])
    with pytest.raises(pytest.skip.Exception, match=r"KUBERAY_CRDS.*tag v1\.7\.0"):
        checks.ray_service_schema.__wrapped__()
