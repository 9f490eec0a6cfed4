"""Ray and Serve on this machine, on loopback, for as long as a load test takes."""

import contextlib
import io
import logging
import os
from collections.abc import Iterator

from serve.settings import prepare_ray_environment

from .machine import free_port


@contextlib.contextmanager
def local_serve(num_gpus: int = 0) -> Iterator[str]:
    """Start both, and end them afterwards; yields Serve's address.

    `num_gpus` are logical ones. Serve reads the rest of its settings from the environment.
    """
    prepare_ray_environment()
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    port = free_port()
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            logging_level="WARNING",
            object_store_memory=200 * 1024**2,
            num_cpus=max(4, os.cpu_count() or 1),
            num_gpus=num_gpus,
        )
        # An hour: full-size pictures take minutes on a CPU; the comparison has its own limits.
        serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 3600})
        yield f"http://127.0.0.1:{port}"
    finally:
        # Serve ends its controller by killing it, which Ray prints as a failed task.
        with contextlib.redirect_stdout(io.StringIO()):
            if ray.is_initialized():
                serve.shutdown()
            ray.shutdown()
