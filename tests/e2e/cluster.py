"""A throw-away cluster, by kubectl: which contexts are allowed, what is applied, what it says."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.manifests.rendering import KUBECTL, kustomize

OPERATOR_VERSION = "1.7.0"
SERVICE = "distilled-sd-serve"
# A context is played with only where one of these is a word of its name.
THROW_AWAY = {"e2e", "k3d", "kind", "minikube", "test"}
# Pods start from an image that is there; what takes longer will not come.
READY_S = 900.0
_POLL_S = 1.0


class NoCluster(Exception):
    """There is nothing to test on; the message says what is missing."""


class Refused(Exception):
    """A context that isn't named as one to throw away."""


class KubectlError(Exception):
    """kubectl's own words."""


@dataclass(frozen=True)
class Options:
    """What the environment says; `gpus` are logical, on the one node."""

    context: str
    image: str = f"{SERVICE}:0.1.0-cpu"
    namespace: str = SERVICE
    gpus: int = 12
    rate_per_s: float = 1.5
    url: str = ""

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ) -> "Options":
        """Read E2E_CONTEXT, E2E_IMAGE, E2E_NAMESPACE, E2E_GPUS, E2E_RATE and E2E_URL.

        Raises:
            NoCluster: E2E_CONTEXT is not set.
            Refused: its name doesn't say that it may be thrown away.
        """
        context = environment.get("E2E_CONTEXT", "")
        if not context:
            raise NoCluster("E2E_CONTEXT names no kubectl context, such as kind-kind")
        if not THROW_AWAY & set(re.split(r"[^a-z0-9]+", context.lower())):
            words = ", ".join(sorted(THROW_AWAY))
            raise Refused(f"E2E_CONTEXT: {context!r} was given; one of its words must be {words}")
        return cls(
            context,
            environment.get("E2E_IMAGE", cls.image),
            environment.get("E2E_NAMESPACE", cls.namespace),
            int(environment.get("E2E_GPUS", cls.gpus)),
            float(environment.get("E2E_RATE", cls.rate_per_s)),
            environment.get("E2E_URL", ""),
        )


class Cluster:
    """One namespace of a context."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._command = [
            shutil.which("kubectl") or str(KUBECTL),
            f"--context={options.context}",
            f"--namespace={options.namespace}",
        ]

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """What kubectl prints.

        Raises:
            KubectlError: it failed.
        """
        done = subprocess.run(
            [*self._command, *arguments], input=stdin, capture_output=True, text=True
        )
        if done.returncode:
            raise KubectlError(f"kubectl {shlex.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> Any:
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def apply(self, *manifests: Any) -> None:
        self.kubectl("apply", "--filename=-", stdin=yaml.safe_dump_all(manifests))

    def find_operator(self) -> None:
        """Raise NoCluster where no API server, or not this version of the operator, answers."""
        try:
            deployments = self.get("deployments", "--all-namespaces")
        except KubectlError as fault:
            raise NoCluster(str(fault)) from None
        found = re.findall(r'"image": "[^"]*kuberay/operator:v([^"@]+)', json.dumps(deployments))
        if OPERATOR_VERSION not in found:
            raise NoCluster(f"KubeRay's operator {OPERATOR_VERSION} isn't there, but {found}")

    def rendered(self, overlay: Path, serve_config: str = "") -> list[Any]:
        """An overlay with this namespace and image; with another serve configuration, if given."""
        name, _, tag = self.options.image.rpartition(":")
        content: dict[str, Any] = {
            "namespace": self.options.namespace,
            "images": [{"name": SERVICE, "newName": name, "newTag": tag}],
        }
        if serve_config:
            patch = [{"op": "replace", "path": "/spec/serveConfigV2", "value": serve_config}]
            content["patches"] = [{"target": {"kind": "RayService"}, "patch": json.dumps(patch)}]
        with tempfile.TemporaryDirectory(prefix="e2e-") as folder:
            content["resources"] = [os.path.relpath(overlay, Path(folder).resolve())]
            (Path(folder) / "kustomization.yaml").write_text(json.dumps(content))
            return [one for one in yaml.safe_load_all(kustomize(Path(folder))) if one]

    def kinds(self) -> set[str]:
        """What this API server has definitions of."""
        lines = self.kubectl("api-resources", "--no-headers").splitlines()
        return {line.split()[-1] for line in lines if line}

    def make_secret(self, name: str, **values: str) -> None:
        metadata = {"name": name, "namespace": self.options.namespace}
        self.apply(
            {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values}
        )

    def add_gpus(self) -> str:
        """Give the first node logical GPUs and their label; returns its address.

        What stands in a node's capacity and isn't the kubelet's own, it takes for allocatable.
        """
        node = self.get("nodes")["items"][0]
        patch = {"status": {"capacity": {"nvidia.com/gpu": str(self.options.gpus)}}}
        name = node["metadata"]["name"]
        self.kubectl("patch", "node", name, "--subresource=status", f"-p={json.dumps(patch)}")
        self.kubectl("label", "node", name, "nvidia.com/gpu.present=true", "--overwrite")
        addresses = {one["type"]: one["address"] for one in node["status"]["addresses"]}
        return str(addresses["InternalIP"])

    def ray_service(self) -> "State":
        return State(self.get("rayservice", SERVICE))

    def pods(self, group: str) -> dict[str, bool]:
        """The active RayCluster's pods of a group, and whether all containers of each are ready.

        `group` is a variant, or `headgroup`. Pods that are being deleted are left out.
        """
        labels = f"ray.io/group={group},ray.io/cluster={self.ray_service().active}"
        found = {}
        for pod in self.get("pods", f"--selector={labels}")["items"]:
            containers = pod["status"].get("containerStatuses", [{"ready": False}])
            if "deletionTimestamp" not in pod["metadata"]:
                found[pod["metadata"]["name"]] = all(one["ready"] for one in containers)
        return found

    def kill(self, pod: str, container: str, name: str) -> None:
        """SIGKILL the processes, but the first, whose command line holds a name."""
        # In brackets, so that the shell that looks doesn't find itself.
        looked_for = f"[{name[0]}]{name[1:]}"
        script = (
            f"for p in $(grep -la '{looked_for}' /proc/[0-9]*/cmdline); do "
            "p=${p#/proc/}; p=${p%/cmdline}; [ $p = 1 ] || { kill -9 $p; echo $p; }; done"
        )
        arguments = ("exec", pod, f"--container={container}", "--", "bash", "-c", script)
        if not self.kubectl(*arguments).strip():
            raise KubectlError(f"{pod}, {container}: no process but the first is {name!r}")

    def evict(self, pod: str) -> None:
        """As `kubectl drain` does."""
        metadata = {"name": pod, "namespace": self.options.namespace}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        path = f"/api/v1/namespaces/{self.options.namespace}/pods/{pod}/eviction"
        self.kubectl("create", f"--raw={path}", "--filename=-", stdin=json.dumps(body))

    @contextlib.contextmanager
    def forwarded(self) -> Iterator[str]:
        """The serve Service at an address of this machine."""
        command = [*self._command, "port-forward", f"service/{SERVICE}-serve-svc", ":8000"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
            try:
                if found is None:
                    raise KubectlError("kubectl port-forward: it forwards nothing")
                yield f"http://127.0.0.1:{found[1]}"
            finally:
                process.terminate()


class State:
    """What the operator says of a RayService.

    `active` is the RayCluster that serves; `status` and `message` are Serve's of the application.
    """

    def __init__(self, content: Any) -> None:
        status = content.get("status", {})
        active = status.get("activeServiceStatus") or {}
        (application,) = (active.get("applicationStatuses") or {"": {}}).values()
        self.ready = any(
            one["type"] == "Ready" and one["status"] == "True"
            for one in status.get("conditions", [])
        )
        self.active: str = active.get("rayClusterName", "")
        self.status: str = application.get("status", "")
        self.message: str = application.get("message", "")


def seconds_until(condition: Callable[[], object], limit_s: float = READY_S) -> float:
    """How long it took; kubectl's faults on the way count as not yet."""
    began = time.monotonic()
    fault: object = ""
    while True:
        try:
            if condition():
                return time.monotonic() - began
        except KubectlError as error:
            fault = error
        if time.monotonic() - began > limit_s:
            raise TimeoutError(f"not within {limit_s:g} s. {fault}")
        time.sleep(_POLL_S)
