"""The service on this machine's Ray: the miniature, and a device that sleeps, behind one proxy.

`local.yaml` is deployed as KubeRay's operator deploys one: a change of it is a rolling update.
"""

import contextlib
import os
import re
import time
from collections.abc import AsyncIterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import yaml

from loadtests.local_serve import local_serve
from tests.machine import ROOT, free_port

from . import machine
from .load import Checked, Requests, checked, mixed
from .stage import Stage

VARIANTS = ("original", "distilled", "distilled-tiny-vae")
# What this service promises: a request that is admitted is drawn within it.
SLO_S = 10.0
_START_LIMIT_S = 240.0

Config = dict[str, Any]


class LocalService:
    """Ray and Serve on this machine, on loopback and a free port.

    `scratch` is where Ray and the applications may write. `cold_start_s` is how long the first
    replicas took, all at once, from their configuration on.
    """

    key: str | None = None

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self.cold_start_s = 0.0
        self.config: Config = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
        self.config["applications"][1]["args"]["hang_dir"] = str(scratch)
        self._first_config = self.config
        self._running = contextlib.ExitStack()

    def start(self) -> None:
        """Start Ray and both applications, as configured at first, and wait until all are warm."""
        # Replicas find `tests` where this process does.
        os.environ["PYTHONPATH"] = str(ROOT)
        ray_options = {"logging_level": "ERROR", "_temp_dir": str(self.scratch / "ray")}
        self._running.enter_context(local_serve(self._port, 120, num_cpus=8, **ray_options))
        began_s = time.monotonic()
        self.apply(self._first_config)
        while not self.ready():
            if time.monotonic() > began_s + _START_LIMIT_S:
                raise TimeoutError(f"the service is not warm after {_START_LIMIT_S:.0f} s")
            time.sleep(0.1)
        self.cold_start_s = time.monotonic() - began_s

    def stop(self) -> None:
        self._running.close()

    def apply(self, config: Config) -> None:
        """Deploy a serve configuration; returns at once."""
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        self.config = config
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(deepcopy(config)))

    def changed(self, **args: Any) -> Config:
        config = deepcopy(self.config)
        config["applications"][0]["args"].update(args)
        return config

    def applications(self) -> dict[str, Any]:
        from ray import serve

        found: dict[str, Any] = serve.status().applications
        return found

    def ready(self) -> bool:
        """Whether both applications run, and every variant has a warm replica."""
        found = self.applications()
        if len(found) < 2 or any(app.status != "RUNNING" for app in found.values()):
            return False
        urls = [f"{self.url}{path}/readyz" for path in ("", "/steps")]
        try:
            return all(httpx.get(url, timeout=5).status_code == 200 for url in urls)
        except httpx.HTTPError:
            return False

    def pids(self, deployment: str, app: str = "default") -> set[int]:
        return machine.by_role().get(f"{app}:{deployment}", set())


LocalStage = Stage[LocalService]


@contextlib.asynccontextmanager
async def sleeping_device(stage: LocalStage) -> AsyncIterator[tuple[Checked, Requests]]:
    requests = mixed(("distilled",))
    async with checked(f"{stage.service.url}/steps", requests) as client:
        yield client, requests


def scrape(name: str, **labels: str) -> float:
    """The sum over the miniature's series with these labels; they are some seconds old."""
    import ray

    (node,) = ray.nodes()
    url = f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    return total(httpx.get(url, timeout=30).text, name, application="default", **labels)


def total(text: str, name: str, **labels: str) -> float:
    """The sum over a metric's series with these labels, in Prometheus' text format."""
    return sum(
        float(value)
        for found, value in re.findall(rf"^{name}\{{(.*)\}} (\S+)$", text, re.MULTILINE)
        if labels.items() <= dict(re.findall(r'(\w+)="([^"]*)"', found)).items()
    )
