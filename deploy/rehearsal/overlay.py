"""A rendered overlay: the RayService in it, and what its environment refers to."""

import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

Manifest = dict[str, Any]


class OverlayError(Exception):
    """The overlay can't be rehearsed; the message says why."""


def render(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k` would send.

    Raises:
        OverlayError: kustomize refuses the folder; the message is its own.
    """
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run(
        [str(kubectl), "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise OverlayError(f"kubectl kustomize {folder}: {done.stderr.strip()}")
    return [one for one in yaml.safe_load_all(done.stdout) if one]


@dataclass(frozen=True)
class Overlay:
    """One RayService and its surroundings.

    Secrets are not in the repository, so each key that is asked for gets a value of its own, the
    same for all who ask. `files` are those of Secrets that are mounted, by Secret and name.
    """

    name: str
    manifests: list[Manifest]
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    _secrets: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def ray_service(self) -> Manifest:
        """The only RayService.

        Raises:
            OverlayError: there is none, or more than one.
        """
        found = [one for one in self.manifests if one["kind"] == "RayService"]
        if len(found) != 1:
            raise OverlayError(f"{self.name}: holds {len(found)} RayServices; 1 is needed")
        return found[0]

    @property
    def namespace(self) -> str:
        """Where the RayService is; `default` where it doesn't say."""
        return str(self.ray_service["metadata"].get("namespace", "default"))

    def secret(self, name: str, key: str) -> str:
        """A made-up value for a Secret's key."""
        return self._secrets.setdefault((name, key), secrets.token_hex(16))

    def value_from(self, source: Manifest, pod: Mapping[str, str]) -> str | None:
        """What an environment variable's `valueFrom` stands for; None where optional and absent.

        Args:
            source: the `valueFrom`.
            pod: the pod's fields by path, such as `status.podIP`.

        Raises:
            OverlayError: it refers to what isn't there, or in a way that isn't rehearsed.
        """
        match dict(source):
            case {"secretKeyRef": {"optional": True}}:
                return None
            case {"secretKeyRef": {"name": name, "key": key}}:
                return self.secret(name, key)
            case {"configMapKeyRef": {"name": name, "key": key, **rest}}:
                value = self._config_map(name).get(key)
                if value is None and not rest.get("optional"):
                    raise OverlayError(f"{self.name}: no key {key!r} in ConfigMap {name!r}")
                return value
            case {"fieldRef": {"fieldPath": path}} if path in pod:
                return pod[path]
        raise OverlayError(f"{self.name}: valueFrom {dict(source)} is not rehearsed")

    def env_from(self, sources: Sequence[Manifest]) -> dict[str, str]:
        """The variables that a container's `envFrom` brings.

        Raises:
            OverlayError: a source is no ConfigMap of the overlay.
        """
        found: dict[str, str] = {}
        for source in sources:
            match dict(source):
                case {"configMapRef": {"name": name}}:
                    found.update(self._config_map(name))
                case _:
                    raise OverlayError(f"{self.name}: envFrom {dict(source)} is not rehearsed")
        return found

    def _config_map(self, name: str) -> Mapping[str, str]:
        for one in self.manifests:
            if one["kind"] == "ConfigMap" and one["metadata"]["name"] == name:
                data: Mapping[str, str] = one.get("data", {})
                return data
        raise OverlayError(f"{self.name}: holds no ConfigMap {name!r}")


def with_pods(overlay: Overlay, most: int) -> Overlay:
    """The overlay, but with at most so many pods a worker group to begin with."""
    manifests = deepcopy(overlay.manifests)
    for one in manifests:
        if one["kind"] == "RayService":
            for group in one["spec"]["rayClusterConfig"].get("workerGroupSpecs", []):
                for name in ("replicas", "minReplicas"):
                    if group.get(name):
                        group[name] = min(group[name], most)
    return replace(overlay, manifests=manifests)
