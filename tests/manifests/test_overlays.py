"""Every overlay holds to every check, and every check fails on a fault that is planted."""

import re
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.http.body import LEAST_BYTES_PER_S
from serve.http.edit_schemas import upload_bytes
from serve.http.options import HttpOptions
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
    named,
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
    # test_examples.py renders the first of the last two, test_own_variants.py the second.
    assert components <= {*included, *OPTIONAL, "weights-image", "own-variant"}


@pytest.mark.parametrize("name", NAMES)
def test_the_rendered_serve_config_is_the_file_byte_for_byte(name: str) -> None:
    text = (OVERLAYS / name / "serve-config.yaml").read_text()
    assert ray_service(rendered(name))["spec"]["serveConfigV2"] == text


def test_the_laptops_pods_fit_beside_kinds_and_the_operators_on_two_cores() -> None:
    # kubeadm's four 650m, CoreDNS twice 100m, kindnet 100m; the operator's chart 100m.
    others_m = 950 + 100
    ours_m = [
        int(str(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])[:-1])
        * group.get("replicas", 1)
        for group in groups(rendered("laptop"))
    ]
    assert sum(ours_m) + others_m <= 2000


def test_spot_workers_take_the_peaks_and_on_demand_workers_the_rest(tmp_path: Path) -> None:
    *_, on_demand, spot = groups(with_components(tmp_path, "production", ["spot"]))
    assert on_demand["minReplicas"] == on_demand["maxReplicas"] == 2
    assert (spot["minReplicas"], spot["maxReplicas"]) == (0, 5)
    assert spot["labels"] == on_demand["labels"]
    assert spot["priority"] < on_demand.get("priority", 0)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "laptop"])
def test_workers_find_gpu_nodes_by_asking_for_a_gpu_and_a_daemon_set_by_labels(name: str) -> None:
    for group in groups(rendered(name))[1:]:
        assert group["template"]["spec"]["nodeSelector"] == {}
        assert "nvidia.com/gpu" in group["template"]["spec"]["containers"][0]["resources"]["limits"]
    for one in of_kind(rendered(name), "DaemonSet"):
        affinity = one["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
        wanted = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        labels = [term["matchExpressions"][0]["key"] for term in wanted]
        assert "nvidia.com/gpu.present" in labels
        assert all(re.search("gpu|accelerator", label) for label in labels)


def test_a_label_of_gpu_nodes_can_be_asked_for_in_every_group(tmp_path: Path) -> None:
    _, *workers = groups(with_components(tmp_path, "production", ["gpu-operator-nodes"]))
    selectors = [group["template"]["spec"]["nodeSelector"] for group in workers]
    assert selectors == [{"nvidia.com/gpu.present": "true"}] * len(workers)


def test_the_head_reaches_api_servers_wherever_they_usually_listen(tmp_path: Path) -> None:
    private, public = (
        policy(with_components(tmp_path, "gpu", ["api-server-public"]), name)["egress"][0]
        for name in ("-api-server", "-api-server-public")
    )
    # EKS, AKS and GKE; kubeadm, kind and k3s; minikube; MicroK8s.
    assert {one["port"] for one in private["ports"]} == {443, 6443, 8443, 16443}
    assert all(one["ipBlock"]["cidr"] != "0.0.0.0/0" for one in private["to"])
    (everywhere,) = public["to"]
    assert everywhere["ipBlock"] == {"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}


def test_policies_name_the_operators_services_by_what_these_select(tmp_path: Path) -> None:
    """amazon-network-policy-controller-k8s lets no other address of a Service through."""
    manifests = with_components(tmp_path, "production", ["loadtest"])
    for name, selector in (
        ("-ray", {"ray.io/node-type": "head"}),
        ("loadtest", {"ray.io/serve": "true"}),
    ):
        peers = [peer for rule in policy(manifests, name)["egress"] for peer in rule["to"]]
        assert {"podSelector": {"matchLabels": selector}} in peers


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
    most_bytes = 4 * upload_bytes(HttpOptions()) // 3
    assert backend["requestBuffer"]["limit"] == f"{most_bytes // 1024}Ki"
    assert set(backend) == {"targetRefs", "requestBuffer", "rateLimit"}
    (rule,) = backend["rateLimit"]["global"]["rules"]
    (selector,) = rule["clientSelectors"]
    assert selector["headers"] == [{"name": "Authorization", "type": "Distinct"}]
    timeouts_s = {
        name: float(text.removesuffix("s")) for name, text in client["timeout"]["http"].items()
    }
    longest_s = HttpOptions().body_timeout_s + most_bytes / LEAST_BYTES_PER_S
    assert timeouts_s["requestReceivedTimeout"] > longest_s
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
    return ray_service(manifests)["spec"]["rayClusterConfig"]


def ray_pod(manifests: list[Manifest], index: int = 0) -> Manifest:
    """The pod of the head (0) or of a worker group."""
    return groups(manifests)[index]["template"]["spec"]


def ray_container(manifests: list[Manifest], index: int = 0) -> Manifest:
    return ray_pod(manifests, index)["containers"][0]


def in_serve_config(change: Callable[[Manifest], object]) -> Plant:
    def plant(manifests: list[Manifest]) -> None:
        content = serve_config(manifests)
        change(content)
        ray_service(manifests)["spec"]["serveConfigV2"] = yaml.safe_dump(content)

    return plant


def in_args(**changes: Any) -> Plant:
    return in_serve_config(lambda config: config["applications"][0]["args"].update(changes))


def without_arg(name: str) -> Plant:
    return in_serve_config(lambda config: config["applications"][0]["args"].pop(name))


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
        next(one for one in manifests if named(one).startswith(name))
    )


def policy(manifests: list[Manifest], name: str) -> Manifest:
    return the(manifests, "NetworkPolicy", name)["spec"]


def route(manifests: list[Manifest]) -> Manifest:
    return the(manifests, "HTTPRoute")["spec"]["rules"][0]


def pod_of(manifests: list[Manifest], kind: str) -> Manifest:
    return the(manifests, kind)["spec"]["template"]["spec"]


def remove_volume(manifests: list[Manifest], path: str) -> None:
    """Remove the volume that the first worker group mounts there."""
    mounts = ray_container(manifests, 1)["volumeMounts"]
    name = next(mount["name"] for mount in mounts if mount["mountPath"] == path)
    volumes = ray_pod(manifests, 1)["volumes"]
    volumes.remove(next(volume for volume in volumes if volume["name"] == name))


SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}
# By check: its complaint, and the fault that it complains of.
FAULTS: dict[Check, list[tuple[str, Plant]]] = {
    checks.core_kinds_fit_their_schemas: [
        ("updateStratgy", lambda m: the(m, "DaemonSet")["spec"].update(updateStratgy={})),
        ("not a kind", lambda m: the(m, "DaemonSet").update(kind="DeamonSet")),
        # Fields of 1.31, and of 1.34.
        ("Pod RayService, original",
         lambda m: ray_pod(m, 1)["volumes"].append({"name": "x", "image": {"reference": "x"}})),
        ("hostnameOverride", lambda m: pod_of(m, "Job").update(hostnameOverride="x")),
    ],
    checks.the_ray_service_fits_the_crd: [
        ("enableInTreeAutoscalling", lambda m: cluster(m).update(enableInTreeAutoscalling=True)),
        ("timeoutSecond", lambda m: ray_container(m, 1)["readinessProbe"].update(timeoutSecond=5)),
        ("num-cpus", lambda m: groups(m)[0]["rayStartParams"].update({"num-cpus": 0})),
        ("v3", lambda m: cluster(m)["autoscalerOptions"].update(version="v3")),
        ("8 GB", lambda m: ray_container(m)["resources"]["limits"].update(memory="8 GB")),
    ],
    checks.what_the_crd_leaves_open_is_right: [
        ("BlueGreen", lambda m: ray_service(m)["spec"]["upgradeStrategy"].update(type="BlueGreen")),
        ("--num-cpu", lambda m: groups(m)[1]["rayStartParams"].update({"num-cpu": "1"})),
    ],
    checks.the_serve_config_is_serves: [
        ("max_ongoing_request: unknown", in_deployment(1, max_ongoing_request=8)),
        ("max_replica: unknown", in_deployment(1, autoscaling_config={"max_replica": 2})),
        ("num_gpu: unknown", in_deployment(1, ray_actor_options={"num_gpu": 1})),
        ("request_timeout: ",
         in_serve_config(lambda c: c["http_options"].update(request_timeout=5))),
        ("loging_config: unknown", in_serve_config(lambda c: c.update(loging_config={}))),
    ],
    checks.the_app_builds_from_the_serve_config: [
        ("weights", in_args(weights="x")),
        ("'orginal': not in the application", in_deployment(1, name="orginal")),
        ("'distilled-tiny-vae': not in the file",
         in_serve_config(lambda c: c["applications"][0]["deployments"].pop())),
    ],
    checks.the_drain_chain_holds: [
        ("request_timeout_s 131",
         in_serve_config(lambda c: c["http_options"].update(request_timeout_s=131))),
        ("drain timeout 150", in_deployment(3, graceful_shutdown_timeout_s=151)),
        ("is not in the file",
         in_serve_config(lambda c: c["applications"][0]["deployments"][2].pop(
             "graceful_shutdown_timeout_s"))),
        ("terminationGracePeriodSeconds 150",
         lambda m: ray_pod(m, 2).update(terminationGracePeriodSeconds=150)),
        ("no literal", lambda m: ray_container(m, 1)["env"].pop(0)),
        ("rayClusterDeletionDelaySeconds 60",
         lambda m: ray_service(m)["spec"].update(rayClusterDeletionDelaySeconds=60)),
        ("head: drains 150 s of 30 s",
         lambda m: ray_container(m)["env"][0].update(value="150")),
        ("head: drains 0 s of 180 s",
         lambda m: ray_pod(m).update(terminationGracePeriodSeconds=180)),
        ("preStop",
         lambda m: ray_container(m, 1).update(
             lifecycle={"preStop": {"exec": {"command": ["ray", "stop"]}}})),
    ],
    checks.everything_before_the_service_waits_longer: [
        ("15s", lambda m: route(m)["timeouts"].update(request="15s")),
        ("timeouts.request 0s", lambda m: route(m).pop("timeouts")),
        ("max_request_s: 120", in_args(max_request_s=120)),
        ("between heartbeats", in_ray_environment(RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S="10")),
        ("lets clients send x-request-timeout-seconds", lambda m: route(m).pop("filters")),
        ("HARD_STOP", in_ray_environment(RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S="120")),
        ("CLIENT_S: 3600",
         lambda m: checks.ray_environment(m).pop("RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S")),
        ("over body_timeout_s", in_args(body_timeout_s=30)),
        ("BUCKETS", in_ray_environment(RAY_SERVE_REQUEST_LATENCY_BUCKETS_MS="100,1000,60000")),
    ],
    checks.answers_and_logs_cross_serve_whole: [
        ("MAX_MESSAGE_LENGTH: 4194304",
         lambda m: checks.ray_environment(m).pop("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH")),
        ("LOG_BUFFER_SIZE: must be 1",
         lambda m: checks.ray_environment(m).pop("RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE")),
    ],
    checks.pods_are_restricted: [
        *[(f"original, ray-worker: securityContext.{field}",
           lambda m, field=field: ray_container(m, 1)["securityContext"].pop(field))
          for field in checks.CONTAINER_SECURITY],
        *[(f"head: securityContext.{field}",
           lambda m, field=field: ray_pod(m)["securityContext"].pop(field))
          for field in (*checks.POD_SECURITY, "runAsUser")],
        *[(f"original: {path} is no emptyDir",
           lambda m, path=path: remove_volume(m, path)) for path in sorted(checks.RAY_WRITES_TO)],
        ("wait-for-weights: securityContext",
         lambda m: ray_pod(m)["initContainers"][0].pop("securityContext")),
        ("autoscalerOptions", lambda m: cluster(m)["autoscalerOptions"].pop("securityContext")),
        ("added capabilities",
         lambda m: ray_container(m, 1)["securityContext"].update(
             capabilities={"drop": ["ALL"], "add": ["SYS_PTRACE"]})),
        ("hostNetwork", lambda m: ray_pod(m, 1).update(hostNetwork=True)),
        ("hostPath",
         lambda m: ray_pod(m, 1)["volumes"].append({"name": "x", "hostPath": {"path": "/"}})),
        ("automount", lambda m: ray_pod(m, 1).update(automountServiceAccountToken=True)),
        ("not in memory", lambda m: ray_pod(m, 1)["volumes"][3].update(emptyDir={})),
        ("HOME", lambda m: ray_container(m, 1)["env"].pop()),
        ("no memory limit", lambda m: pod_of(m, "Job")["containers"][0]["resources"].pop("limits")),
        ("no request for",
         lambda m: pod_of(m, "StatefulSet")["containers"][0]["resources"].pop("requests")),
        ("Namespace", lambda m: the(m, "Namespace")["metadata"]["labels"].clear()),
    ],
    checks.versions_are_equal_everywhere: [
        ("2.59.0", lambda m: cluster(m).update(rayVersion="2.59.0")),
        ("no exact tag", lambda m: ray_container(m, 1).update(image="distilled-sd-serve:latest")),
        ("no exact tag", lambda m: pod_of(m, "StatefulSet")["containers"][0].update(image="redis")),
        ("0.0.9-cuda", lambda m: ray_container(m, 1).update(image="distilled-sd-serve:0.0.9-cuda")),
        ("0.1.0-cpu", lambda m: ray_container(m, 1).update(image="distilled-sd-serve:0.1.0-cpu")),
    ],
    checks.references_meet: [
        ("no ConfigMap ray-env", without("ConfigMap ray-env")),
        ("no PersistentVolumeClaim", without("PersistentVolumeClaim distilled-sd-serve-weights")),
        ("no ServiceAccount", without("ServiceAccount distilled-sd-serve-head")),
        ("no volume", lambda m: ray_pod(m, 1)["volumes"].pop()),
        ("no Service distilled-sd-serve-redis", without("Service distilled-sd-serve-redis")),
        ("no Gateway", without("Gateway distilled-sd-serve")),
        ("no Service x", lambda m: route(m)["backendRefs"][0].update(name="x")),
        ("no namespace", lambda m: the(m, "HTTPRoute")["metadata"].pop("namespace")),
    ],
    checks.labels_and_selectors_meet: [
        ("operator: selects none",
         lambda m: policy(m, "operator")["podSelector"]["matchLabels"].update(
             {"app.kubernetes.io/component": "haed"})),
        ("to-redis: selects none",
         lambda m: policy(m, "to-redis")["egress"][0]["to"][0]["podSelector"]["matchLabels"].update(
             x="y")),
        ("PodDisruptionBudget",
         lambda m: the(m, "PodDisruptionBudget", "original")["spec"]["selector"][
             "matchLabels"].update({"ray.io/group": "orginal"})),
        ("selects another app.kubernetes.io/name",
         lambda m: groups(m)[0]["template"]["metadata"]["labels"].update(
             {"app.kubernetes.io/name": "distilled-sd-serve"})),
        ("selects another ray.io/identifier",
         lambda m: groups(m)[0].update(labels={"ray.io/identifier": "x"})),
        ("PodMonitor",
         lambda m: the(m, "PodMonitor", "head")["spec"]["selector"]["matchLabels"].update(x="y")),
        ("Service", lambda m: the(m, "Service")["spec"]["selector"].update(x="y")),
        ("spreads other pods",
         lambda m: ray_pod(m, 1)["topologySpreadConstraints"][0]["labelSelector"][
             "matchLabels"].update(x="y")),
        ("serves-orginal",
         in_deployment(1, ray_actor_options={"label_selector": {"serves-orginal": "true"}})),
    ],
    checks.ports_are_named_and_open: [
        ("'dashboard'", lambda m: ray_container(m)["ports"][1].update(name="dash")),
        ("'serve'", lambda m: ray_container(m)["ports"][2].update(name="http")),
        ("http_options.port, 8001", in_serve_config(lambda c: c["http_options"].update(port=8001))),
        ("readinessProbe asks",
         lambda m: ray_container(m, 1)["readinessProbe"]["httpGet"].update(port="http")),
        ("'metric'",
         lambda m: the(m, "PodMonitor", "workers")["spec"]["podMetricsEndpoints"][0].update(
             port="metric")),
        ("listens on 8001",
         lambda m: policy(m, "gateway")["ingress"][0]["ports"][0].update(port=8001)),
    ],
    checks.nobody_reaches_more_than_needed: [
        ("nothing refuses", without("NetworkPolicy distilled-sd-serve-deny")),
        ("open to everybody", lambda m: policy(m, "gateway")["ingress"][0].pop("from")),
        ("opens every port", lambda m: policy(m, "operator")["ingress"][0].pop("ports")),
        ("may leave the cluster",
         lambda m: policy(m, "server")["egress"][0].update(
             to=[{"ipBlock": {"cidr": "0.0.0.0/0"}}])),
        ("authOptions", lambda m: cluster(m)["authOptions"].update(mode="disabled")),
        ("enableIngress", lambda m: cluster(m)["headGroupSpec"].update(enableIngress=True)),
    ],
    checks.only_the_operator_reaches_the_dashboard: [
        ("others than the operator reach [8265]",
         lambda m: policy(m, "gateway").update(
             podSelector={"matchLabels": {"app.kubernetes.io/component": "head"}},
             ingress=[{"from": [{"namespaceSelector": {}}], "ports": [{"port": 8265}]}])),
        ("reach [6379, 8265]",
         lambda m: policy(m, "operator")["ingress"][0].update(
             ports=[{"port": 8265}, {"port": 6379}])),
        ("reach all",
         lambda m: policy(m, "serve-ray")["ingress"][0]["from"].append({"podSelector": {
             "matchLabels": {"app.kubernetes.io/component": "redis"}}})),
        ("reach [8000]",
         lambda m: policy(m, "monitoring")["ingress"][0].update(
             ports=[{"port": 8000, "endPort": 9000}])),
        ("NodePort", lambda m: the(m, "Service")["spec"].update(type="NodePort")),
        ("more through than /v1", lambda m: route(m)["matches"][0]["path"].update(value="/")),
        ("port 8265", lambda m: route(m)["backendRefs"][0].update(port=8265)),
    ],
    checks.the_head_can_restart_alone: [
        ("excludeHead", lambda m: ray_service(m)["spec"].pop("excludeHeadPodFromServeSvc")),
        ("offers CPUs", lambda m: groups(m)[0]["rayStartParams"].pop("num-cpus")),
        ("router: asks for no CPU", in_deployment(0, ray_actor_options={"num_cpus": 0})),
        ("proxy_location", in_serve_config(lambda c: c.update(proxy_location="HeadOnly"))),
        ("the next head has another address", lambda m: groups(m)[0].pop("headService")),
        ("the next head has another address",
         lambda m: groups(m)[0]["headService"]["spec"].update(clusterIP="None")),
        ("only after its first probe",
         lambda m: groups(m)[0]["headService"]["spec"].pop("publishNotReadyAddresses")),
        ("refuses a name", lambda m: groups(m)[0]["headService"].update(metadata={"name": "x"})),
    ],
    checks.workers_carry_the_replicas: [
        ("4 replicas and 1 while rolling", lambda m: groups(m)[1].update(maxReplicas=4)),
        ("min_replicas 2, but 1 workers", lambda m: groups(m)[1].update(minReplicas=1)),
        ("max_surge_percent 0", in_deployment(1, max_surge_percent=0)),
        ("no worker group with a GPU",
         lambda m: ray_container(m, 1)["resources"]["limits"].pop("nvidia.com/gpu")),
    ],
    checks.workers_have_the_cores: [
        ("the workers have 18", in_deployment(1, ray_actor_options={"num_cpus": 9})),
    ],
    checks.a_node_drain_leaves_every_group_a_worker: [
        ("original: budgets keep [2] of at least 2",
         lambda m: the(m, "PodDisruptionBudget", "original")["spec"].update(minAvailable=2)),
        ("original: budgets keep [1] of at least 1, not []",
         lambda m: groups(m)[1].update(minReplicas=1)),
        ("original: budgets keep [] of at least 2",
         without("PodDisruptionBudget distilled-sd-serve-original")),
        ("together",
         lambda m: the(m, "PodDisruptionBudget", "original")["spec"]["selector"][
             "matchLabels"].pop("ray.io/group")),
        ("head: budgets keep [1]",
         lambda m: the(m, "PodDisruptionBudget", "original")["spec"]["selector"].update(
             matchLabels={"app.kubernetes.io/component": "head"})),
    ],
    checks.the_weights_are_where_they_are_looked_for: [
        ("not mounted read-only",
         lambda m: [one.pop("readOnly", 0) for one in ray_container(m, 2)["volumeMounts"]]),
        ("no Job fills /weights/other", in_args(weights_dir="/weights/other")),
        ("differ in the safety checker",
         lambda m: pod_of(m, "Job")["initContainers"][0]["command"].remove("--safety-checker")),
        ("differ in the safety checker", without_arg("safety_checker")),
        ("doesn't download original-lcm", in_args(variants=["original", "original-lcm"])),
        ("HF_HUB_OFFLINE", in_ray_environment(HF_HUB_OFFLINE="0")),
    ],
    checks.the_catalogue_is_where_it_is_looked_for: [
        ("ray-head: mounts [], but needs /c/x.yaml", in_args(catalogue="/c/x.yaml")),
        ("download: reads [], the application /c/x.yaml", in_args(catalogue="/c/x.yaml")),
    ],
    checks.what_hangs_is_given_up_in_time: [
        ("would drain", in_ray_environment(RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS="0")),
        ("original: a device call that hangs is noticed after 150 s", without_arg("stuck_after_s")),
    ],
    checks.the_keys_are_where_they_are_looked_for: [
        ("distilled: /keys/keys.txt", lambda m: ray_container(m, 2)["volumeMounts"].pop()),
        ("head: /kyes/k is not mounted", in_args(api_keys_file="/kyes/k")),
        ("not mounted read", lambda m: ray_container(m)["volumeMounts"][-1].pop("readOnly")),
        ("original: /keys/keys.txt is not",
         lambda m: ray_pod(m, 1)["volumes"].__setitem__(-1, {"name": "api-keys", "emptyDir": {}})),
        ("doesn't wait", lambda m: ray_pod(m, 1)["volumes"][-1]["secret"].update(optional=True)),
        ("everybody in the pod",
         lambda m: ray_pod(m, 1)["volumes"][-1]["secret"].pop("defaultMode")),
        ("never renewed",
         lambda m: ray_container(m, 1)["volumeMounts"][-1].update(subPath="keys.txt")),
        ("names no file", without_arg("api_keys_file")),
    ],
    checks.a_key_is_kept_from_shutting_others_out: [
        ("max_requests_per_key is not in the file", without_arg("max_requests_per_key")),
        ("original: one key's 129 requests fill its 2 replicas", in_args(max_requests_per_key=43)),
    ],
    checks.auto_keeps_what_requests_outlive: [
        ("auto.slo_s: 115",
         in_serve_config(lambda c: c["applications"][0]["args"]["auto"].update(slo_s=115))),
    ],
    checks.nothing_secret_is_written_down: [
        ("part of the kustomization", lambda m: m.append(SECRET)),
        ("RAY_AUTH_TOKEN is a literal",
         lambda m: ray_container(m)["env"].append({"name": "RAY_AUTH_TOKEN", "value": "x"})),
        ("HF_TOKEN in a ConfigMap", in_ray_environment(HF_TOKEN="x")),
        ("a password in redis.conf",
         lambda m: next(one for one in of_kind(m, "ConfigMap") if "redis.conf" in one["data"])[
             "data"].update({"redis.conf": "requirepass x"})),
        ("redisPassword is a literal",
         lambda m: cluster(m)["gcsFaultToleranceOptions"].update(redisPassword={"value": "x"})),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("check", "plant", "complaint"),
    [
        pytest.param(check, plant, complaint, id=f"{check.__name__}-{complaint.replace(' ', '_')}")
        for check, faults in FAULTS.items()
        for complaint, plant in faults
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
    assert set(FAULTS) == set(CHECKS)


def test_without_the_crds_the_check_is_skipped_and_says_where_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checks, "CRD_FOLDERS", [])
    with pytest.raises(pytest.skip.Exception, match=r"KUBERAY_CRDS.*tag v1\.7\.0"):
        checks.ray_service_schema.__wrapped__()
