"""The overlays as KubeRay's operator 1.7.0 makes pods of them, down to the blanks."""

from pathlib import Path
from typing import Any

import pytest

from loadtests.fixed_step import FixedStepArgs, build_app
from serve.keys import KeyFile
from tests.faults.overlay.kubelet import readiness_probe
from tests.faults.overlay.manifests import Overlay, OverlayError
from tests.faults.overlay.pods import mounted_at
from tests.faults.overlay.serve_config import (
    options,
    use_fixed_steps,
    use_one_replica,
    variants,
)
from tests.faults.overlay.service import add_key
from tests.faults.overlay.translation import (
    auth_token,
    container_args,
    environment,
    groups,
    has_head_service,
    secret_mounts,
    whole,
)
from tests.manifests.rendering import NAMES, rendered

FQDN = "rs-head-svc.default.svc.cluster.local"


@pytest.fixture
def production() -> Overlay:
    return Overlay("production", rendered("production"))


@pytest.fixture
def laptop() -> Overlay:
    return Overlay("laptop", rendered("laptop"))


def ray_env(of: Overlay) -> dict[str, str]:
    (data,) = [data for name, data in of.config_maps.items() if name.startswith("ray-env")]
    return data


def variables(of: Overlay, cluster: str = "rs") -> list[dict[str, str]]:
    return [environment(of, group, cluster, "rs-pod-0", FQDN) for group in groups(of)]


def test_the_lines_of_head_and_worker_are_the_operators(production: Overlay) -> None:
    head, worker = (container_args(production, one, FQDN) for one in groups(production)[:2])
    assert head == (
        "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}; ray start --head  --block  "
        "--dashboard-agent-listen-port=52365  --dashboard-host=0.0.0.0  --memory=8589934592  "
        "--metrics-export-port=8080  --no-monitor  --num-cpus=0  --object-store-memory=1000000000  "
        "--redis-password=$REDIS_PASSWORD"
    )
    assert worker == (
        "ulimit -n ${RAY_START_ULIMIT_OPEN_FILES:-65536}; ray start  "
        f"--address={FQDN}:6379  --block  --dashboard-agent-listen-port=52365  "
        "--labels=serves-original=true  --memory=12884901888  --metrics-export-port=8080  "
        "--num-cpus=3  --num-gpus=1  --object-store-memory=1000000000"
    )


def test_a_quantity_is_rounded_up() -> None:
    assert [whole(one) for one in ("500m", "2", 3, "1.5Gi", "1G")] == [1, 2, 3, 3 * 2**29, 10**9]


def test_the_operator_adds_to_the_environment_and_the_template_wins_but_for_some(
    production: Overlay,
) -> None:
    container = production.groups[1]["template"]["spec"]["containers"][0]
    container["env"] += [
        {"name": "RAY_PORT", "value": "7000"},
        {"name": "RAY_CLUSTER_NAME", "value": "mine"},
    ]
    head, worker, *_ = variables(production)
    assert head["RAY_ADDRESS"] == "127.0.0.1:6379"
    assert worker["RAY_ADDRESS"] == f"{FQDN}:6379"
    assert (worker["FQ_RAY_IP"], worker["RAY_IP"]) == (FQDN, "rs-head-svc")
    assert (head["RAY_NODE_TYPE_NAME"], worker["RAY_NODE_TYPE_NAME"]) == ("headgroup", "original")
    assert (worker["RAY_PORT"], worker["RAY_CLUSTER_NAME"]) == ("7000", "rs")
    assert head["RAY_AUTH_TOKEN"] == worker["RAY_AUTH_TOKEN"] == auth_token(production, "rs")
    assert head["RAY_REDIS_ADDRESS"] == "distilled-sd-serve-redis:6379"
    assert head["REDIS_PASSWORD"] == production.secret("distilled-sd-serve-redis", "password")
    assert worker["RAY_gcs_rpc_server_reconnect_timeout_s"] == "600"
    assert "RAY_REDIS_ADDRESS" not in worker
    assert ray_env(production).items() <= worker.items()
    name = "RAY_external_storage_namespace"
    assert head[name] != variables(production, "another")[0][name]


def test_a_dead_pod_is_replaced_or_restarted_and_the_head_has_an_address_as_the_overlay_has_it(
    production: Overlay, laptop: Overlay
) -> None:
    assert {group.restarts_in_place for group in groups(production)} == {False}
    assert {group.restarts_in_place for group in groups(laptop)} == {True}
    assert has_head_service(production)
    assert not has_head_service(laptop)


def test_a_head_gets_the_operators_probe_and_a_worker_keeps_its_own(production: Overlay) -> None:
    head, worker, *_ = groups(production)
    assert readiness_probe(head)["httpGet"] == {"path": "/api/healthz", "port": 52365}
    probe = readiness_probe(worker)
    assert probe["httpGet"] == {"path": "/-/healthz", "port": 8000}
    assert (probe["initialDelaySeconds"], probe["failureThreshold"]) == (0, 3)


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("container", {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]}),
        ("container", {"envFrom": [{"configMapRef": {"name": "absent"}}]}),
        ("container", {"command": ["echo"]}),
        ("group", {"resources": {"CPU": "3"}}),
    ],
    ids=["value-from", "env-from", "command", "resources"],
)
def test_what_is_unsupported_is_refused(laptop: Overlay, where: str, what: Any) -> None:
    group = laptop.groups[1]
    (group if where == "group" else group["template"]["spec"]["containers"][0]).update(what)
    with pytest.raises(OverlayError, match="unsupported"):
        variables(laptop)


@pytest.mark.parametrize("name", NAMES)
def test_what_stands_in_for_gpus_keeps_the_topology(name: str) -> None:
    of = Overlay(name, rendered(name))
    before = options(of.serve_config), groups(of)
    of.use_one_pod()
    use_one_replica(of.serve_config)
    use_fixed_steps(of.serve_config, 0.1)
    assert options(of.serve_config) == before[0]
    for group, real in zip(groups(of), before[1], strict=True):
        assert (group.pods, group.labels) == (1, real.labels)
        assert group.gpus == (real.gpus + 1 if real.gpus else 0)
    (app,) = of.serve_config["applications"]
    assert app["import_path"] == f"{build_app.__module__}:{build_app.__name__}"
    assert FixedStepArgs.model_validate(app["args"]).step_s == 0.1
    for deployment in app["deployments"]:
        if deployment["name"] in variants(of.serve_config):
            scaling = deployment.get("autoscaling_config", {"max_replicas": 1})
            assert scaling["max_replicas"] == deployment.get("num_replicas", 1) == 1


def test_the_key_is_in_the_secret_that_the_head_mounts(
    production: Overlay, laptop: Overlay, tmp_path: Path
) -> None:
    key = add_key(production)
    assert key is not None
    args = production.serve_config["applications"][0]["args"]
    assert args["api_keys_file"] == mounted_at("/keys/keys.txt")
    assert args["max_requests_per_key"] is None
    file = tmp_path / "keys.txt"
    file.write_text(production.files[secret_mounts(groups(production)[0])["/keys"]]["keys.txt"])
    assert KeyFile(file, ["original"]).find(key.encode()) is not None
    assert add_key(laptop) is None
    laptop.serve_config["applications"][0]["args"]["api_keys_file"] = "/elsewhere/keys.txt"
    with pytest.raises(OverlayError, match=r"'/elsewhere/keys\.txt' is in no mounted Secret"):
        add_key(laptop)
