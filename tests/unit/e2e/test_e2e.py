"""What of the end-to-end tests can be tried without a cluster: all but a cluster's answers.

`kubectl` is a script that plays a cluster, as far as the laptop's overlay goes.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.config import AppArgs
from tests.e2e.cluster import Cluster, KubectlError, NoCluster, Options, Refused, State
from tests.e2e.report import PUBLISHED, Row, as_table
from tests.e2e.scenarios import PRODUCTION, miniature
from tests.fake_service import FakeService, serving
from tests.machine import HANG_S, ROOT
from tests.manifests.checks import CHECKS, Check, the_app_builds_from_the_serve_config
from tests.manifests.rendering import groups

KUBECTL = f"""#!{sys.executable}
import json, os, pathlib, sys, time
log = pathlib.Path(os.environ["PLAYED"])
arguments = [one for one in sys.argv[1:] if not one.startswith(("--context=", "--namespace="))]
before = log.read_text().splitlines() if log.exists() else []
log.write_text("\\n".join([*before, " ".join(arguments)]))
match arguments:
    case ["get", "deployments", *_]:
        image = os.environ["OPERATOR"]
        pod = {{"spec": {{"containers": [{{"image": image}}]}}}}
        print(json.dumps({{"items": [{{"spec": {{"template": pod}}}}]}}))
    case ["get", "rayservice", *_]:
        asked = sum(line.startswith("get rayservice") for line in before)
        ready = {{"type": "Ready", "status": "True" if asked else "False"}}
        print(json.dumps({{"status": {{"conditions": [ready]}}}}))
    case ["get", "rayclusters", *_]:
        print(json.dumps({{"items": []}}))
    case ["api-resources", *_]:
        print("namespaces ns v1 false Namespace\\nrayservices ray.io/v1 true RayService")
    case ["port-forward", *_]:
        port = os.environ["SERVED"].rpartition(":")[2]
        print(f"Forwarding from 127.0.0.1:{{port}} -> 8000", flush=True)
        time.sleep({HANG_S})
    case ["apply" | "delete", *_]:
        sys.stdin.read()
    case _:
        sys.exit(f"unexpected: {{arguments}}")
"""


def play(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "kubectl").chmod(0o755)
    base = {name: value for name, value in os.environ.items() if not name.startswith("E2E_")}
    added = {
        "PATH": f"{folder}:{base['PATH']}",
        "PLAYED": str(folder / "played"),
        "OPERATOR": "quay.io/kuberay/operator:v1.7.0",
    }
    return subprocess.run(
        [sys.executable, "-m", "tests.e2e", *arguments],
        cwd=ROOT,
        env={**base, **added, **environment},
        capture_output=True,
        text=True,
    )


def test_the_laptop_is_played_from_nothing_to_pictures_and_back(tmp_path: Path) -> None:
    with serving(FakeService()) as service:
        done = play(
            tmp_path,
            *("-k", "api_server or laptop"),
            E2E_CONTEXT="kind-kind",
            SERVED=service.url,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    assert [asked["model"] for asked in service.asked] == [
        "original",
        "distilled",
        "distilled-tiny-vae",
    ]
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| laptop ready")]
    assert row.endswith("| - | 42 |")
    played = (tmp_path / "played").read_text().splitlines()
    words = [line.split(" -")[0] for line in played if line.startswith(("delete", "port"))]
    assert words == [
        "port-forward service/distilled-sd-serve-serve-svc :8000",
        "delete rayservice distilled-sd-serve",
        "delete",
    ]


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({}, "Skipped: E2E_CONTEXT names no kubectl context"),
        ({"E2E_CONTEXT": "kind-kind", "OPERATOR": "quay.io/kuberay/operator:v1.6.2"}, "1.6.2"),
    ],
    ids=["no context", "another operator"],
)
def test_without_a_cluster_it_is_skipped(
    tmp_path: Path, environment: dict[str, str], complaint: str
) -> None:
    done = play(tmp_path, **environment)
    assert done.returncode == 77
    assert complaint in done.stderr


def test_an_unreachable_cluster_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", os.devnull)
    with pytest.raises(NoCluster, match="kubectl get deployments"):
        Cluster(Options("kind-kind")).find_operator()


def test_a_context_to_keep_is_refused(tmp_path: Path) -> None:
    done = play(tmp_path, E2E_CONTEXT="production")
    assert done.returncode == 2
    assert "'production' was given; one of its words must be e2e, k3d, kind" in done.stderr
    assert not (tmp_path / "played").exists()


@pytest.mark.parametrize("name", ["contest", "latest-prod", "mankind", "gke_testing_eu_main"])
def test_a_word_inside_another_allows_nothing(name: str) -> None:
    with pytest.raises(Refused):
        Options.read({"E2E_CONTEXT": name})


@pytest.mark.parametrize(
    "name", ["kind-kind", "minikube", "k3d-ci", "arn:aws:eks:eu:1:cluster/e2e"]
)
def test_a_throw_away_context_is_allowed(name: str) -> None:
    read = Options.read({"E2E_CONTEXT": name, "E2E_GPUS": "6", "E2E_IMAGE": "registry/dsd:1"})
    assert read == Options(name, image="registry/dsd:1", gpus=6)


def overlay() -> list[Any]:
    return Cluster(Options("kind-kind")).rendered(PRODUCTION, miniature())


# It would read the keys, which are a Secret.
BUILDS = the_app_builds_from_the_serve_config


@pytest.mark.parametrize(
    "check", [one for one in CHECKS if one is not BUILDS], ids=lambda check: check.__name__
)
def test_the_tests_overlay_holds_to_every_check(check: Check) -> None:
    assert list(check(overlay())) == []


def test_the_tests_overlay_is_small_and_needs_no_definitions_of_others() -> None:
    manifests = overlay()
    assert {one["apiVersion"] for one in manifests if "." in one["apiVersion"].split("/")[0]} == {
        "networking.k8s.io/v1",
        "ray.io/v1",
    }
    assert [group.get("minReplicas") for group in groups(manifests)] == [None, 2, 1, 1]
    args = yaml.safe_load(miniature(max_request_s=104))["applications"][0]["args"]
    assert AppArgs.model_validate(args).max_request_s == 104


def test_namespace_and_image_are_the_environments() -> None:
    read = Options("kind-kind", image="registry:5000/dsd:2", namespace="other")
    manifests = Cluster(read).rendered(PRODUCTION, miniature())
    names = {one["metadata"].get("namespace", one["metadata"]["name"]) for one in manifests}
    assert names == {"other"}
    containers = [group["template"]["spec"]["containers"][0] for group in groups(manifests)]
    assert {one["image"] for one in containers} == {"registry:5000/dsd:2"}


def test_a_ray_services_state_is_read_at_every_stage() -> None:
    assert (State({}).ready, State({}).active, State({}).status) == (False, "", "")
    failed = {"app": {"status": "DEPLOY_FAILED", "message": "args.family"}}
    state = State(
        {
            "status": {
                "conditions": [{"type": "Ready", "status": "True"}],
                "activeServiceStatus": {"rayClusterName": "a", "applicationStatuses": failed},
            }
        }
    )
    assert (state.ready, state.active) == (True, "a")
    assert (state.status, state.message) == ("DEPLOY_FAILED", "args.family")


def test_what_kubectl_says_is_in_the_error() -> None:
    with pytest.raises(KubectlError, match=r"kubectl get nodes .*--nonsense"):
        Cluster(Options("kind-kind")).get("nodes", "--nonsense")


def test_the_table_has_what_was_found_beside_what_was_published() -> None:
    rows = [Row(scenario, 1.4, 100, 2, 3, 4.6) for scenario in PUBLISHED]
    text = as_table(rows, "dsd:1")
    assert "| head killed | 2 of 100 | 3 | 1 | 5 | 0 of 496 | 5 |" in text
    assert "Kubernetes 1.36.3" in text
    assert "| deleted | - | - | 15 | - | - | 15 |" in as_table([Row("deleted", 15.2)], "dsd:1")
