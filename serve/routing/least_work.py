"""Which replica of a variant gets a request: the one with the least work ahead.

Serve runs this inside the router's handle, over the replicas that it knows and what each reported
last (`VariantReplica.record_routing_stats`). What this handle has routed since then is added, so
that a burst between two reports is spread. It also bounds how long a request waits for a replica.
Ray and the standard library only: Serve carries the class to wherever a handle lives.
"""

import asyncio
import random
import time
from typing import Any, NoReturn

from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.request_router import (
    PendingRequest,
    ReplicaID,
    ReplicaResult,
    RequestRouter,
    RunningReplica,
)

# Methods of a replica that it answers at once.
_QUESTIONS = ("forecast", "info")


class LeastWork(RequestRouter):
    """Offers a request to the replicas in the order of the seconds of work that each has ahead.

    A request that none takes within `max_wait_s`, or by its `deadline_at`, ends in Serve's
    `BackPressureError` where one is full, as behind a full queue, and else in its
    `DeploymentUnavailableError`; Serve raises that itself, at once, where none can be started.
    """

    def initialize_state(self, *, max_wait_s: float, **kwargs: Any) -> None:
        """Nothing was routed yet; Serve calls this after the constructor."""
        self._max_wait_s = max_wait_s
        # When, and the work in image steps, by replica and request.
        self._routed: dict[ReplicaID, dict[str, tuple[float, float]]] = {}

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Ranks of one replica each: the next is tried where one is full."""
        now = time.time()
        known = {replica.replica_id for replica in candidate_replicas}
        self._routed = {
            replica_id: routed for replica_id, routed in self._routed.items() if replica_id in known
        }
        # At random where they are equal, so that several routers don't all choose the same.
        ranked = sorted(
            candidate_replicas,
            key=lambda replica: (self._ahead_s(replica, now), random.random()),
        )
        if pending_request is not None:
            # Else Ray asks full replicas again and again, without a pause.
            pending_request.routing_context.should_backoff = True
        if ranked and pending_request is not None:
            # Already now: over gRPC a replica reports that it took a request with its answer.
            self._forget(pending_request)
            self._remember(pending_request, ranked[0].replica_id, now)
        return [[replica] for replica in ranked]

    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        """Wait for a replica, for so long at most.

        Ray's own, which waits forever, has no public place for this. Outside of the handle nobody
        knows when a replica has taken a request: over gRPC its word comes with its answer. In here
        nothing has been sent yet, so giving up leaves no replica drawing, and what one has taken
        isn't cut.
        """
        if pending_request.metadata.call_method in _QUESTIONS and not self.curr_replicas:
            # Who asks wants to know what is there now, and doesn't wait.
            raise DeploymentUnavailableError(self._deployment_id)
        try:
            async with asyncio.timeout(self._left_s(pending_request)):
                return await super()._choose_replica_for_request(pending_request, is_retry=is_retry)
        except TimeoutError:
            self._refuse()

    def _refuse(self) -> NoReturn:
        """End a request that has waited in vain, by what the replicas answered last."""
        for replica in self.curr_replicas.values():
            ongoing = self.replica_queue_len_cache.get(replica.replica_id)
            if ongoing is not None and ongoing >= replica.max_ongoing_requests:
                raise BackPressureError(ongoing, replica.max_ongoing_requests) from None
        raise DeploymentUnavailableError(self._deployment_id) from None

    def _left_s(self, request: PendingRequest) -> float:
        """How long a request may still wait; a full replica may have sent it back meanwhile."""
        now = time.time()
        generation = request.args[0] if request.args else None
        deadline_at: float | None = getattr(generation, "deadline_at", None)
        ends_at: float = request.created_at + self._max_wait_s
        if deadline_at is not None:
            ends_at = min(ends_at, deadline_at)
        return min(ends_at - now, self._max_wait_s)  # Not longer where the clock was put back.

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        """Remember it of this replica, which may not be the first choice."""
        remembered_at = self._forget(pending_request)
        if remembered_at is not None:  # Else the replica has reported it meanwhile.
            self._remember(pending_request, replica_id, remembered_at)

    def _remember(self, request: PendingRequest, replica_id: ReplicaID, now: float) -> None:
        """Count a request as this replica's work until the replica reports it."""
        if request.metadata.call_method in _QUESTIONS:
            return  # They are no work.
        generation = request.args[0] if request.args else None
        image_steps = float(getattr(generation, "image_steps", 0))
        routed = self._routed.setdefault(replica_id, {})
        routed[request.metadata.internal_request_id] = now, image_steps

    def _forget(self, request: PendingRequest) -> float | None:
        """Stop counting a request; returns when it was counted first, if it was."""
        for routed in self._routed.values():
            if found := routed.pop(request.metadata.internal_request_id, None):
                return found[0]
        return None

    def _ahead_s(self, replica: RunningReplica, now: float) -> float:
        report = replica.routing_stats or {}
        reported_at = report.get("at", 0.0)
        # What seems to come from the future was routed before the clock was put back.
        routed = {
            request: (routed_at, image_steps)
            for request, (routed_at, image_steps) in self._routed.get(
                replica.replica_id, {}
            ).items()
            if reported_at < routed_at <= now
        }
        self._routed[replica.replica_id] = routed
        left_s = max(0.0, report.get("ahead_s", 0.0) - (now - reported_at))
        # Before the first report a step's time is unknown: then the steps themselves count.
        step_s = report.get("image_step_s") or 1.0
        return float(left_s + step_s * sum(image_steps for _, image_steps in routed.values()))
