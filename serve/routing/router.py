"""Picks the variant and calls one of its replicas; the service's ingress deployment."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping

from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    ReplicaUnavailableError,
)
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ReplicaState

from ..errors import EngineClosed, Overloaded, VariantNotFound, VariantUnavailable, shown
from ..generation import Choice, Drawing, Generation, PictureEvent, PictureFormat
from ..metrics import RouterMetrics
from ..variants import Family, Variant
from ..weights.manifest import Manifest
from .auto import QualityFirst, QualityFirstPolicy, Weighted, WeightedPolicy
from .shadow import Shadow, ShadowPolicy

AUTO = "auto"
_TRIES = 2
# A replica answers at once, unless it is full.
_FORECAST_TIMEOUT_S = 0.5
# Probes of many kubelets must not become as many calls of the controller.
_COUNT_AGE_S = 0.5
_log = logging.getLogger("ray.serve")


class Router:
    """Dispatches by variant: one handle per variant; several may lead to one deployment."""

    def __init__(
        self,
        family: Family,
        manifest: Manifest,
        handles: dict[str, DeploymentHandle],
        retry_after_s: float,
        default_model: str,
        auto: WeightedPolicy | QualityFirstPolicy | None = None,
        shadow: ShadowPolicy | None = None,
    ) -> None:
        self.family = family
        self.manifest = manifest
        self.variants: dict[str, Variant] = {name: family.variants[name] for name in handles}
        self._handles = handles
        self._retry_after_s = retry_after_s
        self.default_model = default_model
        self.auto = auto
        self._rule = _rule(auto, tuple(handles))
        self._metrics = RouterMetrics()
        self._shadow: Shadow | None = None
        if shadow is not None:
            self._shadow = Shadow(shadow, self._draw_shadow, self._metrics)
        self._counted: tuple[float, dict[str, int]] | None = None

    def pick(self, model: str) -> Variant:
        """The variant that answers for a request's `model`.

        Raises:
            VariantNotFound: no such variant here.
        """
        variant = self.variants.get(model)
        if variant is None:
            names = [*self.variants, *([AUTO] if self.auto else [])]
            known = ", ".join(shown(name) for name in names)
            raise VariantNotFound(f"model: {shown(model)} was given; allowed: {known}", "model")
        return variant

    async def choose(self, model: str, resolve: Callable[[Variant], Generation]) -> Choice:
        """Decide who draws a request, whose defaults `resolve` fills in for a variant.

        Raises:
            VariantNotFound: no such variant here, or `auto` without a policy for it.
            Exception: what `resolve` raises; for `auto`, of any variant that could be chosen.
        """
        if model != AUTO or self._rule is None:
            return Choice(resolve(self.pick(model)), None)
        if isinstance(self._rule, Weighted):
            decision = self._rule.decide(_request_id())
            generation = resolve(self.variants[decision.variant])
        else:
            # Defaults and bounds are each variant's own.
            resolved = {name: resolve(self.variants[name]) for name in self._rule.variants}
            deadline_at = resolved[self._rule.variants[0]].deadline_at
            decision = self._rule.decide(
                await self._forecasts(resolved),
                None if deadline_at is None else deadline_at - time.time(),
                time.monotonic(),
            )
            generation = resolved[decision.variant]
        self._metrics.decided(decision.variant, decision.reason)
        return Choice(generation, decision.reason)

    async def _forecasts(self, resolved: Mapping[str, Generation]) -> dict[str, float]:
        """What each variant would take, asked where the least work is; infinite without answer."""

        async def ask(variant: str) -> float:
            try:
                async with asyncio.timeout(_FORECAST_TIMEOUT_S):
                    seconds: float = await self._handles[variant].forecast.remote(resolved[variant])
                    return seconds
            except Exception as fault:
                # Full, dying or starting: another variant is the better choice.
                _log.info("%s: no forecast: %s", variant, type(fault).__name__)
                return math.inf

        answers = await asyncio.gather(*(ask(variant) for variant in resolved))
        return dict(zip(resolved, answers, strict=True))

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        """Have a replica of its variant draw; once more where the replica dies meanwhile.

        The seeds are decided by now, so the second try draws the same pictures.

        Raises:
            Overloaded: the variant's queue is full.
            DeadlineUnreachable: the replica has too much work ahead of it.
            DeadlineExceeded: the deadline passed meanwhile.
            VariantUnavailable: two replicas died, or none can be started.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                drawing: Drawing = await self._handles[generation.variant].draw.remote(
                    generation, picture_format
                )
                if self._shadow is not None:
                    self._shadow.consider(_request_id(), generation, drawing)
                return drawing
            except Exception as fault:
                self._raise_unless_lost(fault, generation.variant, attempt)
        raise self._unavailable(generation.variant)

    async def stream(
        self, generation: Generation, picture_format: PictureFormat
    ) -> AsyncIterator[PictureEvent]:
        """Have a replica draw and tell what it makes on the way, as `draw` does.

        Once something was told, a replica that dies is not tried again: the client has seen it.
        """
        handle = self._handles[generation.variant].options(stream=True)
        for attempt in range(1, _TRIES + 1):
            told = False
            events = handle.stream.remote(generation, picture_format)
            try:
                async for event in events:
                    told = True
                    yield event
                return
            except Exception as fault:
                self._raise_unless_lost(fault, generation.variant, attempt)
                if told:
                    break
            finally:
                events.cancel()  # Where the client has gone; harmless at the end.
        raise self._unavailable(generation.variant)

    async def _draw_shadow(self, generation: Generation) -> Drawing | None:
        lossless = PictureFormat("png", 100)
        shadow: Drawing | None = await self._handles[generation.variant].shadow.remote(
            generation, lossless
        )
        return shadow

    def _raise_unless_lost(self, fault: Exception, variant: str, attempt: int) -> None:
        """Return where a replica was lost, so that another can be tried; else raise what it is."""
        match fault:
            case BackPressureError():
                raise Overloaded(
                    f"the queue of {shown(variant)} is full; retry later",
                    fault.retry_after_s or self._retry_after_s,
                ) from None
            case RayActorError() | ReplicaUnavailableError() | EngineClosed():
                _log.warning(
                    "%s: replica lost on try %d: %s", variant, attempt, type(fault).__name__
                )
            case DeploymentUnavailableError():
                raise self._unavailable(variant) from None
            case RayTaskError():
                # Ray's wrapper has the class of what was raised, but not its arguments.
                raise fault.cause from None
            case _:
                raise fault

    def _unavailable(self, variant: str) -> VariantUnavailable:
        return VariantUnavailable(
            f"no replica of {shown(variant)} could answer; retry later", self._retry_after_s
        )

    async def warm_replicas(self) -> dict[str, int]:
        """Count each variant's replicas that passed their warm-up, as the controller sees them."""
        now = time.monotonic()
        if self._counted is None or now - self._counted[0] > _COUNT_AGE_S:
            app_name = serve.get_replica_context().app_name
            status = await asyncio.to_thread(serve.status)
            deployments = status.applications[app_name].deployments
            counts = {}
            for name, handle in self._handles.items():
                states = deployments[handle.deployment_name].replica_states
                counts[name] = states.get(ReplicaState.RUNNING, 0)
            self._counted = now, counts
        return self._counted[1]


def _request_id() -> str:
    request_id: str = serve.context._get_serve_request_context().request_id
    return request_id


def _rule(
    policy: WeightedPolicy | QualityFirstPolicy | None, served: tuple[str, ...]
) -> Weighted | QualityFirst | None:
    match policy:
        case WeightedPolicy():
            return Weighted(policy.weights)
        case QualityFirstPolicy():
            variants = policy.variants or served
            return QualityFirst(variants, policy.slo_s, policy.return_share, policy.return_after_s)
        case None:
            return None
