"""Picks the variant and has one of its replicas draw; the service's ingress deployment."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

from ray import serve
from ray.serve.schema import ReplicaState

from ..errors import (
    InvalidRequest,
    Overloaded,
    UnsuitableVariant,
    VariantNotFound,
    VariantUnavailable,
    shown,
)
from ..generation import Choice, Drawing, Generation, PictureEvent, PictureFormat
from ..metrics import RouterMetrics
from ..replica_info import ReplicaInfo
from ..variants import AUTO, Family, Variant, offered_models
from ..weights.manifest import Manifest
from .auto import AutoPolicy, rule_of
from .replicas import ReplicaLost, Replicas, unavailable

_TRIES = 2
# A replica answers a question at once, unless it is full.
_ANSWER_TIMEOUT_S = 0.5
# Probes of many kubelets must not become as many calls of the controller.
_COUNT_AGE_S = 0.5
# Nor many clients that list the models as many calls of every replica, least of all of one that
# doesn't answer.
_INFO_AGE_S = 2.0
_log = logging.getLogger("ray.serve")


class Router:
    """Dispatches by variant; several variants may lead to one deployment.

    `default_model` draws requests that name no model: a variant, or `auto`.
    """

    def __init__(
        self,
        family: Family,
        manifest: Manifest,
        replicas: Mapping[str, Replicas],
        retry_after_s: float,
        default_model: str,
        auto: AutoPolicy | None = None,
    ) -> None:
        self.family = family
        self.manifest = manifest
        self.variants: dict[str, Variant] = {name: family.variants[name] for name in replicas}
        self.default_model = default_model
        self.auto = auto
        self._replicas = replicas
        self._retry_after_s = retry_after_s
        self._rule = None if auto is None else rule_of(auto, tuple(replicas))
        self._metrics = RouterMetrics()
        self._counted: tuple[float, dict[str, int]] | None = None
        self._informed: tuple[float, dict[str, ReplicaInfo | None]] | None = None
        self._asks_for_info = asyncio.Lock()

    @property
    def models(self) -> list[str]:
        """What a request's `model` may be: the variants, and `auto` where it is offered."""
        return offered_models(self.variants, self.auto is not None)

    async def choose(self, model: str, resolve: Callable[[Variant], Generation]) -> Choice:
        """Decide who draws a request, whose defaults `resolve` fills in for a variant.

        Raises:
            VariantNotFound: no such variant here, or `auto` without a policy for it.
            Exception: what `resolve` raises; for `auto`, only where no variant allows the request.
        """
        if model not in self.models:
            allowed = ", ".join(shown(name) for name in self.models)
            raise VariantNotFound(f"model: {shown(model)} was given; allowed: {allowed}", "model")
        if model != AUTO or self._rule is None:
            return Choice(resolve(self.variants[model]), None)
        # Defaults and bounds are each variant's own.
        resolved: dict[str, Generation] = {}
        refusals: list[InvalidRequest] = []
        for name in self._rule.candidates(_request_id()):
            try:
                resolved[name] = resolve(self.variants[name])
            except InvalidRequest as fault:
                refusals.append(fault)
        if not resolved:
            to_blame = (fault for fault in refusals if not isinstance(fault, UnsuitableVariant))
            raise next(to_blame, refusals[0])
        if self._rule.by_forecast:
            finish_s = await self._forecasts(resolved)
        else:
            finish_s = {await self._present(resolved): 0.0}
        deadline_at = next(iter(resolved.values())).deadline_at
        decision = self._rule.decide(
            finish_s,
            None if deadline_at is None else deadline_at - time.time(),
            time.monotonic(),
        )
        self._metrics.decided(decision.variant, decision.reason)
        return Choice(resolved[decision.variant], decision.reason)

    async def _forecasts(self, resolved: Mapping[str, Generation]) -> dict[str, float]:
        """Each variant's forecast."""
        answers = await asyncio.gather(*map(self.forecast, resolved.values()))
        return dict(zip(resolved, answers, strict=True))

    async def _present(self, resolved: Mapping[str, Generation]) -> str:
        """The first variant that takes requests, however slowly; where none does, the first."""
        for variant, generation in resolved.items():
            try:
                await self._ask(generation)
            except (VariantUnavailable, ReplicaLost, Overloaded):
                continue
            except Exception as fault:
                _log.info("%s: no forecast: %s", variant, type(fault).__name__)
            return variant
        return next(iter(resolved))

    async def _ask(self, generation: Generation) -> float:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            return await self._replicas[generation.variant].forecast(generation)

    async def forecast(self, generation: Generation) -> float:
        """Seconds that a request would take now, asked where the least work is.

        Infinite where no replica answers at once: full, dying or starting ones don't.
        """
        try:
            return await self._ask(generation)
        except Exception as fault:
            _log.info("%s: no forecast: %s", generation.variant, type(fault).__name__)
            return math.inf

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        """Have a replica of its variant draw; once more where the replica dies meanwhile.

        The seeds are decided by now, so the second try draws the same pictures.

        Raises:
            Overloaded: the variant's queue is full.
            DeadlineUnreachable: the replica has too much work ahead of it.
            DeadlineExceeded: the deadline passed meanwhile.
            VariantUnavailable: two replicas died, none took it in time, or none can be started.
        """
        for _ in range(_TRIES):
            with contextlib.suppress(ReplicaLost):
                return await self._replicas[generation.variant].draw(generation, picture_format)
        raise unavailable(generation.variant, self._retry_after_s)

    async def stream(
        self, generation: Generation, picture_format: PictureFormat
    ) -> AsyncIterator[PictureEvent]:
        """Have a replica draw and yield what it makes on the way, as `draw` does.

        After the first event a replica that dies is not tried again: the client has seen it.
        """
        for _ in range(_TRIES):
            begun = False
            events = self._replicas[generation.variant].stream(generation, picture_format)
            try:
                async for event in events:
                    begun = True
                    yield event
                return
            except ReplicaLost:
                if begun:
                    break
            finally:
                if isinstance(events, AsyncGenerator):
                    await events.aclose()
        raise unavailable(generation.variant, self._retry_after_s)

    async def warm_replicas(self) -> dict[str, int]:
        """Count each variant's replicas that passed their warm-up, as the controller sees them."""
        now = time.monotonic()
        if self._counted is None or now - self._counted[0] > _COUNT_AGE_S:
            app_name = serve.get_replica_context().app_name
            status = await asyncio.to_thread(serve.status)
            deployments = status.applications[app_name].deployments
            counts = {}
            for name, replicas in self._replicas.items():
                states = deployments[replicas.deployment].replica_states
                counts[name] = states.get(ReplicaState.RUNNING, 0)
            self._counted = now, counts
        return self._counted[1]

    async def replica_info(self) -> dict[str, ReplicaInfo | None]:
        """What one replica of each variant says of itself; None where none answers at once."""
        async with self._asks_for_info:
            if self._informed is None or time.monotonic() - self._informed[0] > _INFO_AGE_S:
                # With `packed` one deployment has all variants.
                by_deployment = {each.deployment: each for each in self._replicas.values()}
                answers = await asyncio.gather(*map(self._info, by_deployment.values()))
                found = dict(zip(by_deployment, answers, strict=True))
                by_variant = {name: found[each.deployment] for name, each in self._replicas.items()}
                self._informed = time.monotonic(), by_variant
            return self._informed[1]

    async def _info(self, replicas: Replicas) -> ReplicaInfo | None:
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                return await replicas.info()
        except Exception as fault:
            _log.info("%s: no answer about itself: %s", replicas.deployment, type(fault).__name__)
            return None


def _request_id() -> str:
    request_id: str = serve.context._get_serve_request_context().request_id
    return request_id
