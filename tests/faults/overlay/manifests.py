"""A rendered overlay: the RayService in it, and what its pods' environment refers to."""

import secrets
import subprocess
from pathlib import Path
from typing import Any

import yaml

from tests.manifests.rendering import kustomize

Manifest = dict[str, Any]


class OverlayError(Exception):
    """The overlay can't be run here; the message says why."""


def render(folder: Path) -> "Overlay":
    """The overlay as `kubectl apply -k` would send it."""
    try:
        text = kustomize(folder)
    except subprocess.CalledProcessError as fault:
        raise OverlayError(f"kubectl kustomize {folder}: {fault.stderr.strip()}") from None
    return Overlay(folder.name, [one for one in yaml.safe_load_all(text) if one])


class Overlay:
    """One RayService and its surroundings.

    Secrets are not in the repository, so each key that is asked for gets a random value, the same
    each time. `files` are those of mounted Secrets, by Secret and name.
    """

    def __init__(self, name: str, manifests: list[Manifest]) -> None:
        self.name = name
        services = [one for one in manifests if one["kind"] == "RayService"]
        if len(services) != 1:
            raise OverlayError(f"{name}: holds {len(services)} RayServices; 1 is needed")
        self.ray_service = services[0]
        self.spec: Manifest = self.ray_service["spec"]
        if not self.spec.get("excludeHeadPodFromServeSvc"):
            raise OverlayError(f"{name}: a head behind the service is unsupported")
        self.cluster: Manifest = self.spec["rayClusterConfig"]
        workers = self.cluster.get("workerGroupSpecs", [])
        self.groups: list[Manifest] = [self.cluster["headGroupSpec"], *workers]
        # As the operator converts it before it PUTs it.
        self.serve_config: Manifest = yaml.safe_load(self.spec["serveConfigV2"])
        self.namespace = str(self.ray_service["metadata"].get("namespace", "default"))
        self.files: dict[str, dict[str, str]] = {}
        maps = [one for one in manifests if one["kind"] == "ConfigMap"]
        self.config_maps = {one["metadata"]["name"]: one.get("data", {}) for one in maps}
        self._secrets: dict[tuple[str, str], str] = {}

    def secret(self, name: str, key: str) -> str:
        return self._secrets.setdefault((name, key), secrets.token_hex(16))

    def environment(self, container: Manifest, added: list[Manifest]) -> dict[str, str]:
        """The variables of a container's `envFrom` and `env`, and of more entries like those."""
        found: dict[str, str] = {}
        for source in container.get("envFrom", []):
            name = source.get("configMapRef", {}).get("name")
            if name not in self.config_maps:
                raise OverlayError(f"{self.name}: envFrom {source} is absent or unsupported")
            found |= self.config_maps[name]
        for variable in [*container.get("env", []), *added]:
            match variable:
                case {"valueFrom": {"secretKeyRef": {"name": name, "key": key}}}:
                    found[variable["name"]] = self.secret(name, key)
                case {"valueFrom": source}:
                    raise OverlayError(f"{self.name}: valueFrom {source} is unsupported")
                case _:
                    found[variable["name"]] = str(variable.get("value", ""))
        return found

    def use_one_pod(self) -> None:
        """Have at most one pod in each worker group, with room for a replica more.

        That room is what Ray's autoscaler makes on a cluster, for the surge of a rolling update.
        """
        for group in self.groups[1:]:
            group["replicas"] = min(group.get("replicas") or 0, 1)
            group["minReplicas"] = min(group.get("minReplicas") or 0, 1)
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            for name in limits:
                if name.endswith("gpu"):
                    limits[name] = int(limits[name]) + 1
