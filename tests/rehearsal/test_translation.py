"""The operator's text, down to the blanks: KubeRay 1.7.0 makes the same of the same RayService."""

from typing import Any

import pytest

from deploy.rehearsal.overlay import Overlay, OverlayError
from deploy.rehearsal.translation import (
    Group,
    auth_token,
    container_args,
    environment,
    groups,
    head_service,
    ray_start,
    redis_address,
)

from .ray_service import HEAD_FQDN, POD, overlay

REDIS = {
    "redisAddress": "redis:6379",
    "redisPassword": {"valueFrom": {"secretKeyRef": {"name": "redis", "key": "password"}}},
}


def head(of: Overlay) -> Group:
    return groups(of.ray_service)[0]


def worker(of: Overlay) -> Group:
    return groups(of.ray_service)[1]


def variables(of: Overlay, group: Group) -> dict[str, str]:
    return environment(of, group, "rs", POD, HEAD_FQDN)


def test_the_heads_line_is_the_operators() -> None:
    of = overlay()
    assert ray_start(of.ray_service, head(of), HEAD_FQDN) == (
        "ray start --head  --block  --dashboard-agent-listen-port=52365  "
        "--dashboard-host=0.0.0.0  --memory=1073741824  --metrics-export-port=8080  --num-cpus=0"
    )


def test_a_workers_line_is_the_operators() -> None:
    of = overlay()
    assert ray_start(of.ray_service, worker(of), HEAD_FQDN) == (
        "ray start  --address=rs-head-svc.default.svc.cluster.local:6379  --block  "
        "--dashboard-agent-listen-port=52365  --memory=1073741824  "
        "--metrics-export-port=8080  --num-cpus=1  --num-gpus=1"
    )


@pytest.mark.parametrize(
    ("changes", "flag", "present"),
    [
        pytest.param({"labels": {"b": "2", "a": "1"}}, "--labels=a=1,b=2", True, id="labels"),
        pytest.param({"resources": {"CPU": "3"}}, "--num-cpus=3", True, id="group-cpus"),
        pytest.param({"resources": {"CPU": "3"}}, "--num-cpus=1", False, id="not-the-container's"),
        pytest.param(
            {"resources": {"TPU": "4"}}, """--resources='{"TPU":4}'""", True, id="custom-resource"
        ),
        pytest.param(
            {"rayStartParams": {"num-gpus": "0"}}, "--num-gpus=0", True, id="explicit-parameter"
        ),
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
    of = overlay(group=changes)
    assert (f" {flag}" in ray_start(of.ray_service, worker(of), HEAD_FQDN)) == present


def test_requests_give_the_cpus_where_there_is_no_limit() -> None:
    of = overlay(container={"resources": {"requests": {"cpu": "1500m", "memory": "1Gi"}}})
    line = ray_start(of.ray_service, worker(of), HEAD_FQDN)
    assert "--num-cpus=2" in line
    assert "--memory" not in line


def test_the_autoscaler_takes_the_heads_monitor() -> None:
    of = overlay(enableInTreeAutoscaling=True)
    assert "  --no-monitor  " in ray_start(of.ray_service, head(of), HEAD_FQDN)
    assert "no-monitor" not in ray_start(of.ray_service, worker(of), HEAD_FQDN)


def test_the_limit_of_open_files_comes_before_the_line_and_the_templates_command_before_both() -> (
    None
):
    of = overlay(container={"command": ["echo"], "args": ["hello"]})
    assert container_args(of.ray_service, head(of), HEAD_FQDN).startswith(
        "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}; ray start --head "
    )
    assert container_args(of.ray_service, worker(of), HEAD_FQDN).startswith(
        "echo hello && ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}; ray start "
    )


@pytest.mark.parametrize(
    ("autoscaler", "in_place"),
    [
        pytest.param({}, True, id="none"),
        pytest.param({"enableInTreeAutoscaling": True}, True, id="unversioned"),
        pytest.param(
            {"enableInTreeAutoscaling": True, "autoscalerOptions": {"version": "v2"}},
            False,
            id="v2",
        ),
    ],
)
def test_only_the_second_autoscaler_has_dead_pods_replaced(
    autoscaler: dict[str, Any], in_place: bool
) -> None:
    assert [one.restarts_in_place for one in groups(overlay(**autoscaler).ray_service)] == [
        in_place,
        in_place,
    ]


def test_a_group_has_its_minimum_of_pods_and_its_own_grace_period() -> None:
    first, second = groups(overlay().ray_service)
    assert (first.pods, first.grace_period_s) == (1, 30)
    assert (second.pods, second.grace_period_s) == (2, 180)


def test_what_the_operator_adds_to_a_pod() -> None:
    of = overlay()
    first, second = variables(of, head(of)), variables(of, worker(of))
    assert first["RAY_ADDRESS"] == "127.0.0.1:6379"
    assert second["RAY_ADDRESS"] == f"{HEAD_FQDN}:6379"
    assert (second["FQ_RAY_IP"], second["RAY_IP"]) == (HEAD_FQDN, "rs-head-svc")
    assert "FQ_RAY_IP" not in first
    for pod in (first, second):
        assert pod["RAY_CLUSTER_NAME"] == "rs"
        assert pod["RAY_CLOUD_INSTANCE_ID"] == "rs-pod-0"
        assert pod["RAY_timeout_ms_task_wait_for_death_info"] == "0"
        assert pod["RAY_gcs_server_request_timeout_seconds"] == "5"
        assert pod["RAY_SERVE_KV_TIMEOUT_S"] == "5"
        assert "RAY_AUTH_MODE" not in pod
    assert (first["RAY_NODE_TYPE_NAME"], second["RAY_NODE_TYPE_NAME"]) == ("headgroup", "big")
    assert second["KUBERAY_GEN_RAY_START_CMD"] == ray_start(of.ray_service, worker(of), HEAD_FQDN)


def test_the_templates_variables_win_but_for_the_forced_ones() -> None:
    of = overlay(
        container={
            "envFrom": [{"configMapRef": {"name": "ray-env"}}],
            "env": [
                {"name": "RAY_PORT", "value": "7000"},
                {"name": "RAY_CLUSTER_NAME", "value": "mine"},
                {"name": "FIRST", "value": "1"},
                {"name": "SECOND", "value": "$(FIRST)2"},
                {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            ],
        }
    )
    pod = variables(of, worker(of))
    assert pod["RAY_PORT"] == "7000"
    assert pod["RAY_CLUSTER_NAME"] == "rs"
    assert pod["SECOND"] == "12"
    assert pod["POD_IP"] == "10.0.0.7"
    assert pod["FROM_MAP"] == "from-map"


@pytest.mark.parametrize(
    "variable",
    [
        pytest.param({"configMapKeyRef": {"name": "ray-env", "key": "no"}}, id="key"),
        pytest.param({"configMapKeyRef": {"name": "no", "key": "no"}}, id="config-map"),
        pytest.param({"fieldRef": {"fieldPath": "spec.no"}}, id="field"),
    ],
)
def test_a_variable_that_refers_to_nothing_is_refused(variable: dict[str, Any]) -> None:
    of = overlay(container={"env": [{"name": "A", "valueFrom": variable}]})
    with pytest.raises(OverlayError, match="no"):
        variables(of, worker(of))


def test_a_token_is_the_same_for_all_pods_and_for_the_operator() -> None:
    of = overlay(authOptions={"mode": "token"})
    first, second = variables(of, head(of)), variables(of, worker(of))
    assert first["RAY_AUTH_MODE"] == second["RAY_AUTH_MODE"] == "token"
    assert first["RAY_AUTH_TOKEN"] == second["RAY_AUTH_TOKEN"] == auth_token(of, "rs")
    assert auth_token(of, "other") != auth_token(of, "rs")
    assert auth_token(overlay(), "rs") is None


def test_with_redis_the_head_keeps_its_state_there_and_workers_wait_for_it() -> None:
    of = overlay(gcsFaultToleranceOptions=REDIS)
    first, second = variables(of, head(of)), variables(of, worker(of))
    assert first["RAY_REDIS_ADDRESS"] == "redis:6379"
    assert first["REDIS_PASSWORD"] == of.secret("redis", "password")
    assert ray_start(of.ray_service, head(of), HEAD_FQDN).endswith(
        "  --redis-password=$REDIS_PASSWORD"
    )
    assert second["RAY_gcs_rpc_server_reconnect_timeout_s"] == "600"
    assert "RAY_REDIS_ADDRESS" not in second
    assert redis_address(of.ray_service) == ("redis", 6379)
    assert redis_address(overlay().ray_service) is None


@pytest.mark.parametrize(
    ("group", "service"),
    [
        pytest.param({}, None, id="headless"),
        pytest.param({"serviceType": "ClusterIP"}, None, id="headless-though-typed"),
        pytest.param({"serviceType": "NodePort"}, {}, id="of-another-type"),
        pytest.param(
            {"headService": {"spec": {"publishNotReadyAddresses": True}}},
            {"publishNotReadyAddresses": True},
            id="own",
        ),
        pytest.param({"headService": {"spec": {"clusterIP": "None"}}}, None, id="own-headless"),
    ],
)
def test_the_heads_service_has_an_address_where_the_operator_gives_it_one(
    group: dict[str, Any], service: dict[str, Any] | None
) -> None:
    assert head_service(overlay(head=group).ray_service) == service


def test_two_clusters_keep_their_state_apart() -> None:
    of = overlay(gcsFaultToleranceOptions=REDIS)
    name = "RAY_external_storage_namespace"
    one, other = (environment(of, head(of), of_cluster, POD, HEAD_FQDN) for of_cluster in "ab")
    assert one[name] != other[name]
