"""One Ray cluster with logical GPUs, on loopback; an application ends with its test module."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import ray
from ray import serve
from ray.serve import Application

from serve.app import compose
from serve.config import AppArgs
from serve.miniature import WEIGHTS_DIR
from serve.weights.manifest import read_manifest
from tests.fakes import load_fake
from tests.machine import HANG_S, ROOT, free_port, wait_for


def wait_until_ready(url: str) -> None:
    """Poll `/readyz`; a config file is deployed after the command that submits it has returned."""
    wait_for(lambda: httpx.get(f"{url}/readyz", timeout=HANG_S).status_code == 200)


@dataclass(frozen=True)
class Cluster:
    url: str
    address: str

    def serve_run(self, *arguments: str) -> None:
        """Run the `serve run` command line on this cluster."""
        command = [str(Path(sys.executable).with_name("serve")), "run", "--non-blocking"]
        subprocess.run(
            [*command, "--address", self.address, *arguments],
            cwd=ROOT,
            check=True,
            timeout=HANG_S,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )

    def delete(self, name: str) -> None:
        """Delete an application, and wait until its processes are gone."""
        serve.delete(name)
        title = f"ray::ServeReplica:{name}:"
        wait_for(lambda: not any(title in one for one in _titles()))


def _titles() -> Iterator[str]:
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            yield " ".join(one.cmdline())


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    context = ray.init(
        address="local",
        num_cpus=2,
        num_gpus=3,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=150 * 1024**2,
    )
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": HANG_S})
    yield Cluster(f"http://127.0.0.1:{port}", context.address_info["gcs_address"])
    # Serve ends its controller by killing it, which Ray prints as a failed task.
    with contextlib.redirect_stdout(io.StringIO()):
        serve.shutdown()
        ray.shutdown()


Start = Callable[[Application, str], str]


@pytest.fixture(scope="module")
def start(cluster: Cluster) -> Iterator[Start]:
    """Start an application under a name of its own, until the module ends; returns its address."""
    names = []

    def run(app: Application, name: str) -> str:
        names.append(name)
        serve.run(app, name=name, route_prefix=f"/{name}")
        # HAProxy learns of its replicas a moment after they run.
        wait_until_ready(f"{cluster.url}/{name}")
        return f"{cluster.url}/{name}"

    yield run
    # An idle process of Ray takes CPU and memory, too: 53 of them made `ray.init` time out.
    for name in names:
        cluster.delete(name)


@dataclass(frozen=True)
class Fake:
    """A service whose denoiser only sleeps, and the folder where it keeps its journals."""

    url: str
    folder: Path

    def ask(self, headers: Mapping[str, str] | None = None, **body: Any) -> httpx.Response:
        """Draw in one step, unless the body says otherwise."""
        url = f"{self.url}/v1/images/generations"
        asked = {"prompt": "x", "num_inference_steps": 1, **body}
        return httpx.post(url, json=asked, headers=headers, timeout=HANG_S)

    def steps(self, variant: str = "original") -> int:
        """Count those that a variant's replicas have done, warming up included."""
        journal = self.folder / variant
        return journal.read_text().count("step") if journal.exists() else 0

    def let_go(self, name: str) -> None:
        """Let a request go on whose prompt is "hold after 5: NAME"."""
        (self.folder / name).touch()


StartFake = Callable[..., Fake]


@pytest.fixture(scope="module")
def start_fake(start: Start, tmp_path_factory: pytest.TempPathFactory) -> StartFake:
    """Start a service over a denoiser that only sleeps; takes the arguments of `AppArgs`."""

    def run(name: str, step_s: float, **args: Any) -> Fake:
        folder = tmp_path_factory.mktemp(name)
        fields = {"variants": "original", "num_cpus": 0, "slots": 1, **args}
        load = partial(load_fake, step_s, folder)
        app = compose(AppArgs.model_validate(fields), read_manifest(WEIGHTS_DIR), load)
        return Fake(start(app, name), folder)

    return run
