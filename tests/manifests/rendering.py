"""The manifests as `kubectl apply -k` would send them, by kubectl's own kustomize."""

import copy
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = ROOT / "deploy" / "overlays"
COMPONENTS = ROOT / "deploy" / "components"
KUBECTL = Path(sys.executable).with_name("kubectl")

Manifest = dict[str, Any]

NAMES = sorted(path.parent.name for path in OVERLAYS.glob("*/kustomization.yaml"))
# Components that no overlay includes, over the one that they are made for.
OPTIONAL = [
    "spot",
    "loadtest",
    "in-place-upgrade",
    "api-server-public",
    "api-server-cilium",
    "gpu-operator-nodes",
]


def kustomize(folder: Path) -> str:
    return subprocess.run(
        [KUBECTL, "kustomize", folder], check=True, capture_output=True, text=True, timeout=60
    ).stdout


@cache
def _rendered(name: str) -> list[Manifest]:
    return [one for one in yaml.safe_load_all(kustomize(OVERLAYS / name)) if one]


def rendered(name: str) -> list[Manifest]:
    """An overlay's manifests; the caller may change them."""
    return copy.deepcopy(_rendered(name))


def with_components(folder: Path, overlay: str, components: list[str]) -> list[Manifest]:
    """An overlay with more components, as a user's own overlay in `folder` would add them."""
    content = {
        "resources": [os.path.relpath(OVERLAYS / overlay, folder.resolve())],
        "components": [os.path.relpath(COMPONENTS / one, folder.resolve()) for one in components],
        "namespace": "distilled-sd-serve",
        "images": [{"name": "distilled-sd-serve", "newTag": "0.1.0-cuda"}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(content))
    return [one for one in yaml.safe_load_all(kustomize(folder)) if one]


def of_kind(manifests: list[Manifest], *kinds: str) -> list[Manifest]:
    return [one for one in manifests if one["kind"] in kinds]


def ray_service(manifests: list[Manifest]) -> Manifest:
    (one,) = of_kind(manifests, "RayService")
    return one


def serve_config(manifests: list[Manifest]) -> Any:
    return yaml.safe_load(ray_service(manifests)["spec"]["serveConfigV2"])


def groups(manifests: list[Manifest]) -> list[Manifest]:
    """The head's group and the workers'."""
    cluster = ray_service(manifests)["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pod_templates(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Every pod template by where it stands."""
    found = {
        f"RayService, {group.get('groupName', 'head')}": group["template"]
        for group in groups(manifests)
    }
    for one in of_kind(manifests, "Job", "StatefulSet", "DaemonSet", "Deployment"):
        found[f"{one['kind']} {one['metadata']['name']}"] = one["spec"]["template"]
    return found


def pod_labels(manifests: list[Manifest]) -> dict[str, dict[str, str]]:
    """Every pod's labels by where its template stands: ours, and the operator's."""
    found = {
        where: dict(one["metadata"]["labels"]) for where, one in pod_templates(manifests).items()
    }
    found["RayService, head"]["ray.io/node-type"] = "head"
    for group in groups(manifests)[1:]:
        found[f"RayService, {group['groupName']}"] |= {
            "ray.io/group": group["groupName"],
            "ray.io/node-type": "worker",
            "ray.io/serve": "true",
        }
    return found


def containers(template: Manifest) -> list[Manifest]:
    spec = template["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def named(one: Manifest) -> str:
    return f"{one['kind']} {one['metadata']['name']}"
