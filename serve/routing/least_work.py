"""Which replica of a variant gets a request: the one with the least work ahead.

Serve runs this inside the router's handle, over the replicas that it knows and what each told last
(`VariantReplica.record_routing_stats`). What this handle has routed since then is added, so that a
burst between two reports is spread. Ray and the standard library only: Serve carries the class to
wherever a handle lives.
"""

import random
import time
from typing import Any

from ray.serve.request_router import (
    PendingRequest,
    ReplicaID,
    ReplicaResult,
    RequestRouter,
    RunningReplica,
)


class LeastWork(RequestRouter):
    """Offers a request to the replicas in the order of the seconds of work that each has ahead."""

    def initialize_state(self, **kwargs: Any) -> None:
        """Nothing was routed yet; Serve calls this after the constructor."""
        # When, and how many image steps, by replica and request.
        self._routed: dict[ReplicaID, dict[str, tuple[float, int]]] = {}

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Ranks of one replica each: the next is tried where one is full."""
        now = time.time()
        known = {replica.replica_id for replica in candidate_replicas}
        self._routed = {one: routed for one, routed in self._routed.items() if one in known}
        # At random where they are equal, so that several routers don't agree on one.
        ranked = sorted(
            candidate_replicas, key=lambda one: (self._ahead_s(one, now), random.random())
        )
        if ranked and pending_request is not None:
            # Already now: over gRPC a replica's word that it took a request comes with its answer.
            self._forget(pending_request)
            self._remember(pending_request, ranked[0].replica_id, now)
        return [[replica] for replica in ranked]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        """Remember it of this replica, which may not be the first choice."""
        remembered_at = self._forget(pending_request)
        if remembered_at is not None:  # Else the replica has told of it meanwhile.
            self._remember(pending_request, replica_id, remembered_at)

    def _remember(self, request: PendingRequest, replica_id: ReplicaID, now: float) -> None:
        """Until the replica tells of it."""
        if request.metadata.call_method in ("forecast", "shadow"):
            return  # A question, and what gives way: no work that others wait for.
        asked = request.args[0] if request.args else None
        steps = len(getattr(asked, "seeds", ())) * getattr(asked, "num_inference_steps", 0)
        routed = self._routed.setdefault(replica_id, {})
        routed[request.metadata.internal_request_id] = now, steps

    def _forget(self, request: PendingRequest) -> float | None:
        """When it was remembered, if it was."""
        for routed in self._routed.values():
            if found := routed.pop(request.metadata.internal_request_id, None):
                return found[0]
        return None

    def _ahead_s(self, replica: RunningReplica, now: float) -> float:
        told = replica.routing_stats or {}
        told_at = told.get("at", 0.0)
        # What seems to come from the future was routed before the clock was put back.
        routed = {
            request: one
            for request, one in self._routed.get(replica.replica_id, {}).items()
            if told_at < one[0] <= now
        }
        self._routed[replica.replica_id] = routed
        left_s = max(0.0, told.get("ahead_s", 0.0) - (now - told_at))
        # One that has told nothing yet has a step time unknown: then requests count.
        step_s = told.get("image_step_s") or 1.0
        return float(left_s + step_s * sum(steps for _, steps in routed.values()))
