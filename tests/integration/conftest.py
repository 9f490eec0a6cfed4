"""One Ray cluster with logical GPUs for the whole session, on loopback and free ports."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import ray
from ray import serve
from ray.serve import Application

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, deadline_s: float = 180) -> None:
    """Poll `/readyz`; a config file is deployed after the command that submits it has returned."""
    end = time.monotonic() + deadline_s
    while httpx.get(f"{url}/readyz", timeout=30).status_code != 200:
        assert time.monotonic() < end, f"{url} did not become ready"
        time.sleep(0.2)


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
            timeout=240,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    context = ray.init(
        address="local",
        num_cpus=4,
        num_gpus=3,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=150 * 1024**2,
    )
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 120})
    yield Cluster(f"http://127.0.0.1:{port}", context.address_info["gcs_address"])
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="session")
def start(cluster: Cluster) -> Callable[[Application, str], str]:
    """Start an application under a name of its own; returns its address."""

    def run(app: Application, name: str) -> str:
        serve.run(app, name=name, route_prefix=f"/{name}")
        # HAProxy learns of its replicas a moment after they run.
        wait_until_ready(f"{cluster.url}/{name}")
        return f"{cluster.url}/{name}"

    return run


@pytest.fixture(scope="session")
def miniature(cluster: Cluster) -> str:
    """The service as deploy/overlays/laptop/serve-config.yaml describes it; returns its address."""
    cluster.serve_run("deploy/overlays/laptop/serve-config.yaml")
    wait_until_ready(cluster.url)
    return cluster.url
