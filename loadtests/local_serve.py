"""Ray and Serve on this machine, on loopback, for as long as a load test takes."""

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from typing import Any

from serve.settings import prepare_ray_environment

from .machine import free_port


@contextlib.contextmanager
def local_serve(
    port: int | None = None, request_timeout_s: int = 3600, **ray_options: Any
) -> Iterator[str]:
    """Start both, and end them afterwards; yields Serve's address.

    Serve's requests may take an hour, since full-size pictures take minutes on a CPU; it reads the
    rest of its settings from the environment. `ray_options` are of `ray.init`.
    """
    prepare_ray_environment()
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    port = port or free_port()
    options = {"num_cpus": max(4, os.cpu_count() or 1), "logging_level": "WARNING", **ray_options}
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=200 * 1024**2,
            **options,
        )
        http_options = {"host": "127.0.0.1", "port": port, "request_timeout_s": request_timeout_s}
        serve.start(http_options=http_options)
        yield f"http://127.0.0.1:{port}"
    finally:
        # Serve ends its controller by killing it, which Ray prints as a failed task.
        with contextlib.redirect_stdout(io.StringIO()):
            if ray.is_initialized():
                # Whatever has become of Serve, Ray ends.
                with contextlib.suppress(Exception):
                    serve.shutdown()
            ray.shutdown()
