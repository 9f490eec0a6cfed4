"""The operator's text, down to the blanks: KubeRay 1.7.0 makes the same of the same RayService."""

from typing import Any

import pytest

from tests.faults.overlay.kubelet import readiness_probe
from tests.faults.overlay.manifests import Overlay, OverlayError
from tests.faults.overlay.translation import (
    auth_token,
    container_args,
    environment,
    groups,
    head_service,
    ray_start,
    whole,
)

from .ray_service import HEAD_FQDN, overlay

REDIS = {
    "redisAddress": "redis:6379",
    "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}},
}


def lines(of: Overlay) -> list[str]:
    return [ray_start(of, group, HEAD_FQDN) for group in groups(of)]


def variables(of: Overlay, cluster: str = "rs") -> list[dict[str, str]]:
    return [environment(of, group, cluster, "rs-pod-0", HEAD_FQDN) for group in groups(of)]


def test_the_lines_of_head_and_worker_are_the_operators() -> None:
    assert lines(overlay()) == [
        "ray start --head  --block  --dashboard-agent-listen-port=52365  "
        "--dashboard-host=0.0.0.0  --memory=1073741824  --metrics-export-port=8080  --num-cpus=0",
        "ray start  --address=rs-head-svc.default.svc.cluster.local:6379  --block  "
        "--dashboard-agent-listen-port=52365  --memory=1073741824  "
        "--metrics-export-port=8080  --num-cpus=1  --num-gpus=1",
    ]
    assert container_args(overlay(), groups(overlay())[0], HEAD_FQDN).startswith(
        "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}; ray start --head "
    )


@pytest.mark.parametrize(
    ("changes", "flag", "present"),
    [
        pytest.param({"labels": {"b": "2", "a": "1"}}, "--labels=a=1,b=2", True, id="labels"),
        pytest.param({"rayStartParams": {"num-gpus": "0"}}, "--num-gpus=0", True, id="explicit"),
        pytest.param(
            {"rayStartParams": {"include-dashboard": "false"}},
            "--include-dashboard=false",
            True,
            id="kept-boolean",
        ),
        pytest.param({"rayStartParams": {"no-monitor": "False"}}, "no-monitor", False, id="off"),
    ],
)
def test_a_groups_fields_become_flags(changes: dict[str, Any], flag: str, present: bool) -> None:
    assert (flag in lines(overlay(group=changes))[1].split()) == present


def test_requests_give_the_cpus_where_there_is_no_limit() -> None:
    requests = {"requests": {"cpu": "1500m", "memory": "1Gi"}}
    line = lines(overlay(container={"resources": requests}))[1]
    assert "--num-cpus=2" in line
    assert "--memory" not in line


def test_a_quantity_is_rounded_up_and_no_quantity_is_refused() -> None:
    assert [whole(one) for one in ("500m", "2", 3, "1.5Gi", "1G")] == [1, 2, 3, 3 * 2**29, 10**9]
    for quantity in ("", "x", "1Xi", "Gi"):
        with pytest.raises(OverlayError, match="no Kubernetes quantity"):
            whole(quantity)


@pytest.mark.parametrize("version", [None, "v1", "v2"])
def test_the_autoscaler_takes_the_heads_monitor_and_its_second_version_replaces_dead_pods(
    version: str | None,
) -> None:
    of = overlay(
        enableInTreeAutoscaling=version is not None, autoscalerOptions={"version": version}
    )
    assert {group.restarts_in_place for group in groups(of)} == {version != "v2"}
    monitors = ["--no-monitor" in line.split() for line in lines(of)]
    assert monitors == [version is not None, False]


def test_a_group_has_its_minimum_of_pods_and_its_own_grace_period() -> None:
    assert [(group.pods, group.grace_period_s) for group in groups(overlay())] == [
        (1, 30),
        (2, 180),
    ]


def test_the_operator_adds_to_the_environment_and_the_template_wins_but_for_some() -> None:
    own = {
        "envFrom": [{"configMapRef": {"name": "ray-env"}}],
        "env": [
            {"name": "RAY_PORT", "value": "7000"},
            {"name": "RAY_CLUSTER_NAME", "value": "mine"},
        ],
    }
    of = overlay(container=own)
    head, worker = variables(of)
    assert head["RAY_ADDRESS"] == "127.0.0.1:6379"
    assert worker["RAY_ADDRESS"] == f"{HEAD_FQDN}:6379"
    assert (worker["FQ_RAY_IP"], worker["RAY_IP"]) == (HEAD_FQDN, "rs-head-svc")
    assert (head["RAY_NODE_TYPE_NAME"], worker["RAY_NODE_TYPE_NAME"]) == ("headgroup", "big")
    assert (worker["RAY_PORT"], worker["FROM_MAP"]) == ("7000", "from-map")
    for pod, line in zip((head, worker), lines(of), strict=True):
        assert pod["RAY_CLUSTER_NAME"] == "rs"
        assert pod["RAY_CLOUD_INSTANCE_ID"] == "rs-pod-0"
        assert pod["RAY_SERVE_KV_TIMEOUT_S"] == "5"
        assert pod["KUBERAY_GEN_RAY_START_CMD"] == line
        assert "RAY_AUTH_MODE" not in pod


@pytest.mark.parametrize(
    "changes",
    [
        {"container": {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}},
        {"container": {"envFrom": [{"configMapRef": {"name": "absent"}}]}},
        {"container": {"command": ["echo"]}},
        {"group": {"resources": {"CPU": "3"}}},
    ],
    ids=["value-from", "env-from", "command", "resources"],
)
def test_what_is_not_rehearsed_is_refused_by_name(changes: dict[str, Any]) -> None:
    with pytest.raises(OverlayError, match="not rehearsed"):
        variables(overlay(**changes))


def test_a_token_is_the_same_for_all_pods_and_for_the_operator() -> None:
    of = overlay(authOptions={"mode": "token"})
    head, worker = variables(of)
    assert head["RAY_AUTH_MODE"] == worker["RAY_AUTH_MODE"] == "token"
    assert head["RAY_AUTH_TOKEN"] == worker["RAY_AUTH_TOKEN"] == auth_token(of, "rs")
    assert auth_token(of, "other") != auth_token(of, "rs")
    assert auth_token(overlay(), "rs") is None


def test_with_redis_the_head_keeps_its_state_there_by_cluster_and_workers_wait_for_it() -> None:
    of = overlay(gcsFaultToleranceOptions=REDIS)
    head, worker = variables(of)
    assert head["RAY_REDIS_ADDRESS"] == "redis:6379"
    assert head["REDIS_PASSWORD"] == of.secret("redis", "password")
    assert lines(of)[0].endswith("  --redis-password=$REDIS_PASSWORD")
    assert worker["RAY_gcs_rpc_server_reconnect_timeout_s"] == "600"
    assert "RAY_REDIS_ADDRESS" not in worker
    name = "RAY_external_storage_namespace"
    assert head[name] != variables(of, "another")[0][name]


@pytest.mark.parametrize(
    ("head", "service"),
    [
        pytest.param({}, None, id="headless"),
        pytest.param({"serviceType": "NodePort"}, {}, id="of-another-type"),
        pytest.param({"headService": {"spec": {"x": 1}}}, {"x": 1}, id="own"),
        pytest.param({"headService": {"spec": {"clusterIP": "None"}}}, None, id="own-headless"),
    ],
)
def test_the_heads_service_has_an_address_where_the_operator_gives_it_one(
    head: dict[str, Any], service: dict[str, Any] | None
) -> None:
    assert head_service(overlay(head=head)) == service


def test_a_head_gets_the_operators_probe_and_a_worker_keeps_its_own() -> None:
    own = {
        "ports": [{"name": "serve", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/-/healthz", "port": "serve"}, "periodSeconds": 5},
    }
    head, worker = groups(overlay(container=own))
    assert readiness_probe(head)["httpGet"] == {"path": "/api/healthz", "port": 52365}
    probe = readiness_probe(worker)
    assert probe["httpGet"] == {"path": "/-/healthz", "port": 8000}
    assert (probe["periodSeconds"], probe["failureThreshold"]) == (5, 3)
    with pytest.raises(OverlayError, match="'big'"):
        readiness_probe(groups(overlay())[1])
