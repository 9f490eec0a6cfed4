"""`python -m serve`: the application on a Ray cluster of its own, on this machine only.

`serve run` neither checks port and memory, nor says when every variant is warm, nor ends cleanly on
SIGTERM.
"""

import contextlib
import io
import logging
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any, Literal

import psutil
from pydantic import Field, FilePath, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from .config import AppArgs, ModelOptions
from .errors import ServingError
from .own_variants import CatalogueEntry
from .routing.auto import QualityFirstPolicy
from .settings import prepare_ray_environment
from .weights.layout import family_dir, fp32_bytes

# Measured with the miniature (PSS): the router, Serve's and Ray's processes take 0.8 GB, a replica
# with torch 0.5 GB. What larger weights need on a CPU comes on top.
_NEEDED_BYTES = int(1.5 * 1024**3)
_REPLICA_BYTES = 512 * 1024**2
# What a request may take beside its drawing: its body's way here, and its reply's.
_SPARE_S = 15
_PROMPT = "a golden vase with different flowers"


class LaunchSettings(BaseSettings, ModelOptions):
    """The settings of `python -m serve`: `--port 8001`, or `DSD_PORT=8001`."""

    model_config = SettingsConfigDict(
        env_prefix="DSD_",
        frozen=True,
        extra="forbid",
        cli_parse_args=True,
        cli_prog_name="python -m serve",
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
    )

    # Split at commas and read by `ModelOptions`; no JSON.
    variants: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="a,b: which to serve, or all; when empty the family's first three"
    )
    catalogue: Annotated[tuple[CatalogueEntry, ...], NoDecode] = Field(
        (), description="a YAML file with more variants"
    )
    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    safety_checker: bool = Field(
        False, description="keep back what the family's safety checker flags"
    )
    auto_slo_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="seconds that model: auto tries to keep"
    )
    num_gpus: float = Field(0, ge=0, description="GPUs that each replica reserves")
    api_keys_file: FilePath | None = Field(
        None, description="names and hashes of API keys; none needed when absent"
    )
    max_request_s: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="the longest that a request may take; when absent 105 with a GPU, else 3600",
    )
    graceful_shutdown_timeout_s: float = Field(
        5, gt=0, description="how long requests under way may take after SIGTERM or Ctrl-C"
    )
    show_logs: bool = Field(False, description="show the replicas' log lines here, too")
    log_encoding: Literal["TEXT", "JSON"] = Field(
        "TEXT", description="form of the lines in the log files"
    )

    @property
    def longest_request_s(self) -> float:
        """The longest that a request may take; a full-size picture takes minutes on a CPU."""
        if self.max_request_s is not None:
            return self.max_request_s
        return 105 if self.num_gpus else 3600


def main() -> int:
    """Serve until Ctrl-C or SIGTERM; 0 after a clean end, 1 where it can't start."""
    try:
        settings = LaunchSettings()
        _check_port(settings)
        _end_on_signals()
        _serve(settings)
    except ValidationError as fault:
        first = fault.errors()[0]
        if not first["loc"]:  # A validator of the whole, which names its field itself.
            return _refuse(str(first["ctx"]["error"]))
        name = ".".join(str(part) for part in first["loc"])
        if first["type"] == "value_error":
            return _refuse(f"{name}: {first['ctx']['error']}")
        return _refuse(f"{name}: {first['input']!r} was given: {first['msg']}")
    except ServingError as fault:
        return _refuse(fault.message)
    except KeyboardInterrupt:
        _tell("Stopped.")
    return 0


def _serve(settings: LaunchSettings) -> None:
    _tell("Starting Ray ...")
    # Not at the top: Ray reads the environment when it is imported.
    prepare_ray_environment()
    from ray import serve
    from ray.serve.schema import LoggingConfig

    from .app import build_app

    auto: dict[str, Any] = {}
    if settings.auto_slo_s is not None:
        auto["auto"] = QualityFirstPolicy(kind="quality-first", slo_s=settings.auto_slo_s)
    args = AppArgs(
        **{name: getattr(settings, name) for name in ModelOptions.model_fields},
        **auto,
        safety_checker=settings.safety_checker,
        num_gpus=settings.num_gpus,
        # The router's folder is another.
        api_keys_file=settings.api_keys_file and settings.api_keys_file.absolute(),
        max_request_s=settings.longest_request_s,
        graceful_shutdown_timeout_s=settings.graceful_shutdown_timeout_s,
    )
    app = build_app(args)
    _check_memory(args)
    with _local_ray_serve(settings, len(args.served)) as log_dir:
        _tell(f"Loading {args.known.description}, and warming up ...")
        logging_config = LoggingConfig(encoding=settings.log_encoding)
        serve.run_many(
            [serve.RunTarget(app, logging_config=logging_config)],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )
        _wait_until_warm(serve)
        _tell(_ready_text(settings, list(args.served), log_dir))
        while True:
            time.sleep(3600)


@contextlib.contextmanager
def _local_ray_serve(settings: LaunchSettings, replicas: int) -> Iterator[str]:
    """Ray and Serve on this machine, from start to clean end; yields the folder of Serve's logs."""
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serving = False
    try:
        context = _start_ray(settings)
        _end_on_signals()  # Ray has put a handler of its own on SIGTERM, which prints a crash.
        _check_room(settings, replicas, ray.cluster_resources())
        try:
            serve.start(
                http_options={
                    "host": settings.host,
                    "port": settings.port,
                    # Serve's own answer is plain text; this service's comes before it.
                    "request_timeout_s": settings.longest_request_s + _SPARE_S,
                },
            )
        except Exception as fault:
            raise _cannot_start("Ray Serve", fault) from fault
        serving = True
        yield f"{context.address_info['session_dir']}/logs/serve"
    finally:
        # A second Ctrl-C must not cut the clean-up short and leave processes behind.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _tell("Stopping ...")
        # Serve ends its controller by killing it, which Ray prints as a failed task.
        with contextlib.redirect_stdout(io.StringIO()):
            if ray.is_initialized():
                if serving:
                    # First the application, which ends what is under way; shutdown takes the proxy
                    # away from it.
                    serve.delete("default")
                serve.shutdown()
            ray.shutdown()


def _start_ray(settings: LaunchSettings) -> Any:
    """Start Ray on this machine; once more where the first start timed out, as on a busy machine.

    Raises:
        ServingError: it didn't start.
    """
    import ray

    start = partial(
        ray.init,
        address="local",
        include_dashboard=False,
        log_to_driver=settings.show_logs,
        logging_level="WARNING",
        object_store_memory=200 * 1024**2,
    )
    try:
        return start()
    except Exception as fault:
        ray.shutdown()
        if "timed out" not in str(fault):
            raise _cannot_start("Ray", fault) from fault
    _tell("Ray timed out while it started; trying once more ...")
    try:
        return start()
    except Exception as fault:
        raise _cannot_start("Ray", fault) from fault


def _cannot_start(what: str, fault: Exception) -> ServingError:
    """One line with the cause and what to do; what Ray raises is often a page."""
    cause = next(iter(str(fault).strip().splitlines()), type(fault).__name__)
    advice = "its logs, usually in /tmp/ray/session_latest/logs, say more"
    if "AF_UNIX path length" in cause:
        cause = cause.partition(": /")[0]
        advice = "point TMPDIR, or RAY_TMPDIR, to a folder with a shorter path"
    elif "timed out" in cause:
        advice = "the machine may be busy or short of memory; try again when it is not"
    return ServingError(f"{what} can't start: {cause.rstrip('.')}; {advice}")


def _end_on_signals() -> None:
    """Let SIGINT, also where a script's `&` has switched it off, and SIGTERM act as Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def _wait_until_warm(serve: Any) -> None:
    """Tell of each deployment when it is warm; return when all are.

    Raises:
        ServingError: Serve gave up starting one.
    """
    warm: set[str] = set()
    while True:
        app = serve.status().applications["default"]
        for name, deployment in app.deployments.items():
            if deployment.status == "HEALTHY" and name not in warm:
                warm.add(name)
                _tell(f"  {name} is warm")
        if app.status == "RUNNING":
            return
        if app.status == "DEPLOY_FAILED":
            reasons = [
                deployment.message.splitlines()
                for deployment in app.deployments.values()
                if deployment.message
            ]
            raise ServingError(f"could not start: {reasons[0][-1] if reasons else app.message}")
        time.sleep(0.2)


def _check_memory(args: AppArgs) -> None:
    needed = _NEEDED_BYTES + _REPLICA_BYTES * len(args.served)
    if args.device == "cpu" or args.num_gpus == 0:
        folder = family_dir(args.family, args.weights_dir)
        needed += sum(
            fp32_bytes(folder, variant, safety_checker=args.safety_checker)
            for variant in args.served.values()
        )
    available = psutil.virtual_memory().available
    if available < needed:
        raise ServingError(
            f"memory: {available / 1024**3:.1f} GiB available, {needed / 1024**3:.1f} GiB needed; "
            "serve fewer with --variants"
        )


def _check_room(settings: LaunchSettings, replicas: int, resources: Mapping[str, float]) -> None:
    """Refuse what Ray would wait for without a word."""
    for name, each in (("GPU", settings.num_gpus), ("CPU", AppArgs().num_cpus)):
        needed, available = replicas * each, resources.get(name, 0)
        if needed > available:
            raise ServingError(
                f"num_{name.lower()}s: {each:g} for each variant are {needed:g}, "
                f"but {available:g} are here; serve fewer with --variants"
            )


def _check_port(settings: LaunchSettings) -> None:
    address_family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(address_family) as probe:
        # As servers do: a port in TIME_WAIT after the last run is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as fault:
            raise ServingError(
                f"port: can't listen on {settings.host}:{settings.port}: {fault.strerror}; "
                "choose another, such as make serve PORT=8001"
            ) from None


def _ready_text(settings: LaunchSettings, served: list[str], log_dir: str) -> str:
    model = "distilled" if "distilled" in served else served[0]
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{settings.port}"
    key = "" if settings.api_keys_file is None else " -H 'Authorization: Bearer KEY'"
    return f"""
Ready on {address}
Page {address}/, API {address}/docs, logs {log_dir}. Try:

  curl {address}/v1/images/generations -H 'Content-Type: application/json' \\
    -H 'Accept: image/png'{key} -o vase.png \\
    -d '{{"model": "{model}", "prompt": "{_PROMPT}", "seed": 2}}'

Ctrl-C stops it."""


def _tell(text: str) -> None:
    print(text, flush=True)


def _refuse(reason: str) -> int:
    print(f"distilled-sd-serve: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
