"""The composition root: arguments to deployments to one application.

`serve run serve.app:build_app`, a serve-config file's `import_path`, and `python -m serve` all
come here. A config file may override any deployment's options under `deployments:`.
"""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from .engine.denoiser import Denoiser
from .engine.slots import Policy
from .generation import Generation
from .http.api import build_api
from .http.gate import ClientLimits
from .keys import KeyFile
from .pipelines.optimisations import DEFAULTS, Optimisations
from .replica.admission import Limits
from .replica.replica import LoadDenoiser, ReplicaSettings, VariantReplica
from .routing.auto import AutoPolicy, QualityFirstPolicy
from .routing.least_work import LeastWork
from .routing.router import Router
from .routing.shadow import ShadowPolicy
from .settings import CompileSettings, forbid_chance, go_offline, keep_compiled_code
from .variants import FamilyName, Variant, family
from .weights.check import check_family
from .weights.layout import family_dir
from .weights.manifest import Manifest

_log = logging.getLogger("ray.serve")
# The deployment that hosts every variant, with `packed`.
PACKED = "packed"
# How often a replica tells its work; in between a router counts what it sends itself.
_STATS_PERIOD_S = 1.0


class AppArgs(BaseModel):
    """Arguments of `build_app`: `args:` in a config file, `name=value` on the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    family: FamilyName = "miniature"
    weights_dir: Path | None = Field(
        None, description="a family folder; the miniature's own when absent, required otherwise"
    )
    verify_hashes: bool = Field(
        False, description="compare every byte of the weights with their manifest before loading"
    )
    safety_checker: bool = Field(
        False, description="keep back what the family's safety checker flags; its folder needs one"
    )
    variants: tuple[str, ...] = Field((), description="which to serve; empty means all")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    auto: AutoPolicy | None = Field(
        QualityFirstPolicy(kind="quality-first", slo_s=5),
        description="which variant answers for model: auto; null offers none",
    )
    shadow: ShadowPolicy | None = Field(
        None, description="repeat a share of the requests on a second variant, to compare"
    )
    num_replicas: int = Field(1, ge=1, description="replicas of each variant")
    num_gpus: float = Field(0, ge=0, description="GPUs that each variant replica reserves")
    num_cpus: float = Field(
        0.25,
        ge=0,
        description="cores that each variant replica reserves; over 1, it also uses that many",
    )
    packed: bool = Field(
        False, description="one deployment hosts all variants and shares what they share"
    )
    policy: Policy = Field(
        "step", description="when requests join: at any step, whole batches, or one by one"
    )
    slots: int | None = Field(
        None,
        ge=1,
        le=64,
        description="images under way at once in a replica; tried at start-up when absent",
    )
    optimisations: Optimisations = Field(
        DEFAULTS, description="what a replica may do to be faster, each with a switch"
    )
    png_parameters: bool = Field(
        True, description="put prompt, seed and the like into PNGs, as other tools do"
    )
    max_ongoing_requests: int = Field(
        64, ge=1, description="requests inside one replica, waiting ones included"
    )
    max_queued_requests: int = Field(
        32, ge=1, description="requests that wait inside a replica, and in each router before it"
    )
    max_queue_s: float = Field(
        60, gt=0, description="seconds that a request may have to wait before it begins"
    )
    max_request_s: float | None = Field(
        None, gt=0, description="the deadline of requests that bring none, or a later one"
    )
    retry_after_s: int = Field(5, ge=1, le=600, description="Retry-After when a queue is full")
    max_image_steps: int = Field(
        400, ge=1, description="a request's images x steps, in pictures of the default size"
    )
    playground: bool = Field(True, description="serve the page at `/`")
    a1111: bool = Field(False, description="answer AUTOMATIC1111's clients under /sdapi/v1")
    min_ready_replicas: int = Field(1, ge=0, description="/readyz wants this many per variant")
    api_keys_file: Path | None = Field(
        None, description="names and hashes of API keys (serve/keys.py); none needed when absent"
    )
    max_requests_per_key: int | None = Field(
        None, ge=1, description="requests of one API key at once, in each router replica"
    )
    body_timeout_s: float = Field(
        10, gt=0, le=600, description="a request whose body takes longer to arrive is refused"
    )
    stuck_after_s: float = Field(
        120,
        gt=0,
        description="a replica whose device call lasts longer is replaced; a full-size step on a "
        "CPU may need more",
    )
    graceful_shutdown_timeout_s: float = Field(
        130, gt=0, description="how long a replica may finish its requests when it is stopped"
    )

    @property
    def served(self) -> dict[str, Variant]:
        """The catalogue's entries of the variants to serve, by name."""
        known = family(self.family).variants
        return {name: known[name] for name in self.variants or known}

    @field_validator("variants", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        # The command line hands over strings only.
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known_variants(self) -> Self:
        known = family(self.family).variants
        for name in self.variants:
            if name not in known:
                raise ValueError(f"variants: {name!r} was given; allowed: {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _policies_name_what_is_served(self) -> Self:
        for name in self.auto.named if self.auto else ():
            if name not in self.served:
                raise ValueError(f"auto: {name!r} was given; allowed: {', '.join(self.served)}")
        if self.shadow is not None and self.shadow.variant not in self.served:
            raise ValueError(
                f"shadow: {self.shadow.variant!r} was given; allowed: {', '.join(self.served)}"
            )
        return self

    @model_validator(mode="after")
    def _keys_to_count(self) -> Self:
        if self.max_requests_per_key is not None and self.api_keys_file is None:
            raise ValueError("max_requests_per_key: needs api_keys_file")
        return self

    def client_limits(self) -> ClientLimits:
        """What clients are held to; reads the file of keys, where there is one.

        Raises:
            KeysError: it is missing or broken.
        """
        keys = None
        if self.api_keys_file is not None:
            keys = KeyFile(self.api_keys_file, family(self.family).variants)
        return ClientLimits(
            self.body_timeout_s, keys, self.max_requests_per_key, float(self.retry_after_s)
        )


class Ingress(Router):
    """The router with its HTTP face."""

    def __init__(
        self, args: AppArgs, manifest: Manifest, handles: dict[str, DeploymentHandle]
    ) -> None:
        super().__init__(
            family(args.family),
            manifest,
            handles,
            float(args.retry_after_s),
            args.auto,
            args.shadow,
        )
        self._args = args

    def __serve_build_asgi_app__(self) -> Any:
        """Build the routes in the replica; Serve calls this after the constructor."""
        args = self._args
        return build_api(
            self,
            args.max_image_steps,
            args.min_ready_replicas,
            args.max_request_s,
            args.client_limits(),
            args.playground,
            args.a1111,
        )


def build_app(args: AppArgs) -> Application:
    """The application over real pipelines.

    Raises:
        WeightsError: the family folder is missing, incomplete or not safe to load.
        KeysError: the file of API keys is missing or broken.
    """
    args.client_limits()  # Here it is told at once; a router would try to start again and again.
    folder = family_dir(args.family, args.weights_dir)
    manifest = check_family(
        folder, family(args.family), args.served, safety_checker=args.safety_checker
    )
    return compose(args, manifest, partial(_load_pipeline, args, folder))


def compose(args: AppArgs, manifest: Manifest, load: LoadDenoiser) -> Application:
    """Bind a deployment per variant, or one that hosts all, and the router before them."""
    settings = ReplicaSettings(
        policy=args.policy,
        slots=args.slots,
        limits=Limits(args.max_queue_s, args.max_queued_requests),
        stuck_after_s=args.stuck_after_s,
        png_parameters=args.png_parameters,
        safety_checker=args.safety_checker,
    )
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
                request_router_class=LeastWork, request_routing_stats_period_s=_STATS_PERIOD_S
            ),
            graceful_shutdown_timeout_s=args.graceful_shutdown_timeout_s,
            # What fails to load fails again; Serve's 20 tries would hide that for minutes.
            max_constructor_retry_count=2,
        )
        notes = {variant.name: manifest.note(variant) for variant in variants}
        bound = deployment.bind(variants, load, settings, notes)
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
        family(args.family),
        [one.name for one in variants],
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
        "switched on: %s; left off: %s; %s",
        ", ".join(readiness.switched_on) or "nothing more",
        ", ".join(f"{part} ({why})" for part, why in readiness.left_off.items()) or "nothing",
        ", ".join(f"{part} {seconds:.1f} s" for part, seconds in readiness.seconds.items()),
    )
    return pipeline
