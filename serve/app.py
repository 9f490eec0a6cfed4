"""The composition root: arguments to deployments to one application.

`serve run serve.app:build_app`, a serve-config file's `import_path`, and `python -m serve` all
come here. A config file may override any deployment's options under `deployments:`.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from .config import AppArgs
from .engine.denoiser import Denoiser
from .generation import Generation
from .http.api import build_api
from .keys import KeyFile
from .replica.replica import VariantReplica
from .replica.startup import LoadDenoiser
from .routing.auto import QualityFirstPolicy
from .routing.least_work import LeastWork
from .routing.replicas import RayReplicas
from .routing.router import Router
from .settings import CompileSettings, forbid_chance, go_offline, keep_compiled_code
from .variants import Variant
from .weights.check import check_family
from .weights.layout import family_dir
from .weights.manifest import Manifest
from .weights.work import picture_flop

_log = logging.getLogger("ray.serve")
# The deployment that hosts every variant, with `packed`.
PACKED = "packed"
# How often a replica tells its work; in between a router counts what it sends itself.
_STATS_PERIOD_S = 1.0
# How long a router waits at most before it asks full replicas again.
_MAX_BACKOFF_S = 0.1


class Ingress(Router):
    """The router with its HTTP side."""

    def __init__(
        self, args: AppArgs, manifest: Manifest, handles: dict[str, DeploymentHandle]
    ) -> None:
        super().__init__(
            args.known,
            manifest,
            {name: RayReplicas(handle, args.retry_after_s) for name, handle in handles.items()},
            args.retry_after_s,
            args.model_when_absent,
            args.auto,
        )
        self._args = args

    def __serve_build_asgi_app__(self) -> Any:
        """Build the routes in the replica; Serve calls this after the constructor."""
        return build_api(self, self._args, key_file(self._args))


def key_file(args: AppArgs) -> KeyFile | None:
    """The file of API keys, where there is one.

    Raises:
        KeysError: it is missing or broken.
    """
    if args.api_keys_file is None:
        return None
    return KeyFile(args.api_keys_file, args.known.variants)


def build_app(args: AppArgs) -> Application:
    """The application over real pipelines.

    Raises:
        WeightsError: the family folder is missing, incomplete or not safe to load.
        KeysError: the file of API keys is missing or broken.
    """
    key_file(args)  # It fails here at once; a router would try to start again and again.
    folder = family_dir(args.family, args.weights_dir)
    manifest = check_family(folder, args.known, args.served, safety_checker=args.safety_checker)
    args = _with_ladder(args, folder)
    return compose(args, manifest, partial(_load_pipeline, args, folder))


def _with_ladder(args: AppArgs, folder: Path) -> AppArgs:
    """The arguments with the order in which `auto` takes the variants, where they leave it open.

    By the work of a picture: among variants of a family, what is more work is better.
    """
    if not isinstance(args.auto, QualityFirstPolicy) or args.auto.variants:
        return args
    served = args.served
    ladder = sorted(served, key=lambda name: picture_flop(folder, served[name]), reverse=True)
    auto = args.auto.model_copy(update={"variants": tuple(ladder)})
    return args.model_copy(update={"auto": auto})


def compose(args: AppArgs, manifest: Manifest, load: LoadDenoiser) -> Application:
    """Bind a deployment per variant, or one that hosts all, and the router before them."""
    served = tuple(args.served.values())
    hosted = [served] if args.packed else [(variant,) for variant in served]
    replicas: dict[str, Application] = {}
    for variants in hosted:
        deployment = serve.deployment(VariantReplica).options(
            name=PACKED if args.packed else variants[0].name,
            num_replicas=args.num_replicas,
            ray_actor_options={"num_gpus": args.num_gpus, "num_cpus": args.num_cpus},
            max_ongoing_requests=args.max_ongoing_requests,
            max_queued_requests=args.max_queued_requests,
            backpressure_config=BackpressureConfig(
                status_code=429, retry_after_s=args.retry_after_s
            ),
            request_router_config=RequestRouterConfig(
                request_router_class=LeastWork,
                request_router_kwargs={"max_wait_s": args.max_queue_s},
                request_routing_stats_period_s=_STATS_PERIOD_S,
                max_backoff_s=_MAX_BACKOFF_S,
            ),
            graceful_shutdown_timeout_s=args.graceful_shutdown_timeout_s,
            # What fails to load fails again; Serve's 20 tries would hide that for minutes.
            max_constructor_retry_count=2,
        )
        notes = {variant.name: manifest.note(variant) for variant in variants}
        bound = deployment.bind(variants, load, args, notes)
        replicas |= {variant.name: bound for variant in variants}
    # The router only waits: it may hold every request that the variants can hold, and some more
    # that it answers at once.
    capacity = len(replicas) * (args.max_ongoing_requests + args.max_queued_requests)
    ingress = serve.deployment(serve.ingress()(Ingress)).options(
        name="router",
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=2 * capacity + 64,
        max_queued_requests=2 * capacity + 64,
        backpressure_config=BackpressureConfig(status_code=429, retry_after_s=args.retry_after_s),
        graceful_shutdown_timeout_s=args.graceful_shutdown_timeout_s,
    )
    return ingress.bind(args, manifest, replicas)


def _load_pipeline(
    args: AppArgs, folder: Path, variants: Sequence[Variant]
) -> Denoiser[Generation, Any]:
    # Again, and where it is loaded: the application may have been built on another machine.
    check_family(
        folder,
        args.known,
        [variant.name for variant in variants],
        safety_checker=args.safety_checker,
        hashes=args.verify_hashes,
    )
    go_offline()
    keep_compiled_code(CompileSettings().compile_cache_dir)
    if args.optimisations.deterministic:
        forbid_chance()
    # Only replicas pay the seconds that importing torch and diffusers takes.
    from .pipelines.pipeline import Pipeline

    pipeline = Pipeline.load(
        variants, folder, args.device, args.optimisations, safety_checker=args.safety_checker
    )
    readiness = pipeline.readiness
    _log.info(
        "switched on: %s; %s",
        ", ".join(readiness.switched_on) or "nothing more",
        ", ".join(f"{part} {s:.1f} s" for part, s in readiness.seconds.items()),
    )
    for part, why in readiness.left_off.items():
        _log.warning("left off: %s (%s)", part, why)
    return pipeline
