"""What is disturbed: the miniature, and a device that sleeps, behind Serve's own proxy.

A serve configuration as deploy/overlays has them, put where KubeRay's operator puts it: a change of
it is a rolling update.
"""

import contextlib
import io
import logging
import os
import socket
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx

from serve.settings import prepare_ray_environment

from . import machine
from .outcome import NotMet

ROOT = Path(__file__).parents[2]
VARIANTS = ("original", "distilled", "distilled-tiny-vae")
# The service's promise here: a request that is let in is drawn within this. So long may it wait by
# the forecast; the rest is for what three replicas take from each other on a few cores.
SLO_S = 10.0
MAX_QUEUE_S = 3.0
# Not left to the sweep at start-up, which looks for throughput: the more images share the calls of
# three replicas on two cores, the longer takes each, and the SLO is about that, too.
SLOTS = 8
# Of the sleeping device.
STEP_S = 0.02
STUCK_AFTER_S = 3.0
HEALTH_PERIOD_S = 1.0
HEALTH_TIMEOUT_S = 3.0
_START_LIMIT_S = 240.0

Config = dict[str, Any]


def configuration(hang_dir: Path) -> Config:
    """Two applications: `/` draws with the miniature, `/steps` sleeps."""
    health = {
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
    }
    # One replica more while rolling, as on GPUs: the old one serves until the new one is warm.
    rolling = {"max_surge_percent": 100, "graceful_shutdown_timeout_s": 30}
    return {
        "applications": [
            {
                "name": "default",
                "route_prefix": "/",
                "import_path": "serve.app:build_app",
                "args": {
                    "max_queue_s": MAX_QUEUE_S,
                    "max_queued_requests": 64,
                    "slots": SLOTS,
                },
                "deployments": [
                    {"name": "router", "num_replicas": 2, **rolling},
                    *({"name": name, **rolling} for name in VARIANTS),
                ],
            },
            {
                "name": "steps",
                "route_prefix": "/steps",
                "import_path": "tests.chaos.stuck:build_app",
                "args": {
                    "variants": "distilled",
                    "num_cpus": 0,
                    "step_s": STEP_S,
                    "slots": 4,
                    # Its router then holds as many requests as one of three variants does.
                    "max_queued_requests": 192,
                    "stuck_after_s": STUCK_AFTER_S,
                    "hang_dir": str(hang_dir),
                },
                "deployments": [
                    {"name": "router"},
                    # Serve's own time for a graceful end, so that who waits for it shows.
                    {"name": "distilled", "num_replicas": 2, **health},
                ],
            },
        ]
    }


class Service:
    """Ray and Serve on this machine, on loopback and a free port.

    Args:
        scratch: where Ray and the applications may write.

    `cold_start_s` is how long the first replicas took, all at once, from their configuration on.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self.config = configuration(scratch)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}"
        self.cold_start_s = 0.0

    def start(self) -> None:
        """Start Ray and both applications; returns when every variant is warm.

        Raises:
            NotMet: one didn't get warm in time.
        """
        prepare_ray_environment()
        # Replicas find `tests` where this process does.
        os.environ["PYTHONPATH"] = str(ROOT)
        import ray
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=200 * 1024**2,
            num_cpus=8,
            _temp_dir=str(self._scratch / "ray"),
        )
        serve.start(
            http_options={"host": "127.0.0.1", "port": self._port, "request_timeout_s": 120}
        )
        began_s = time.monotonic()
        self.apply(self.config)
        while not self.ready():
            if time.monotonic() > began_s + _START_LIMIT_S:
                raise NotMet(f"the service is not warm after {_START_LIMIT_S:.0f} s")
            time.sleep(0.1)
        self.cold_start_s = time.monotonic() - began_s

    def stop(self) -> None:
        """End all of it."""
        import ray
        from ray import serve

        # Serve ends its controller by killing it, which Ray prints as a failed task.
        with contextlib.redirect_stdout(io.StringIO()):
            if ray.is_initialized():
                with contextlib.suppress(Exception):
                    serve.shutdown()
            ray.shutdown()

    def restart(self) -> None:
        """End all of it and start anew, as it was configured at first, at the same address."""
        self.stop()
        self.config = configuration(self._scratch)
        self.start()

    def apply(self, config: Config) -> None:
        """Put a serve configuration; returns at once."""
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        self.config = config
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(deepcopy(config)))

    def changed(self, **args: Any) -> Config:
        """The miniature's configuration with other arguments."""
        config = deepcopy(self.config)
        config["applications"][0]["args"].update(args)
        return config

    def application(self, name: str = "default") -> Any:
        """What Serve tells of an application."""
        from ray import serve

        return serve.status().applications[name]

    def ready(self) -> bool:
        """Whether both applications run, and every variant has a warm replica."""
        from ray import serve

        found = serve.status().applications
        if len(found) < 2 or any(one.status != "RUNNING" for one in found.values()):
            return False
        try:
            answers = [
                httpx.get(f"{self.url}{path}/readyz", timeout=5).status_code
                for path in ("", "/steps")
            ]
        except httpx.HTTPError:
            return False
        return answers == [200, 200]

    def pids(self, deployment: str, app: str = "default") -> set[int]:
        """The processes of a deployment's replicas."""
        return {one.pid for one in machine.by_role().get(f"{app}:{deployment}", [])}

    @property
    def proxies(self) -> set[int]:
        """The proxies' processes."""
        return {one.pid for one in machine.by_role().get("proxy", [])}
