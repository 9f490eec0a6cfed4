"""Which replica a request is offered to first; Serve runs this in the router's handle."""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError
from ray.serve._private.common import DeploymentHandleSource, DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.request_router import PendingRequest

from serve.routing import least_work as routing
from serve.routing.least_work import LeastWork
from tests.fakes import generation
from tests.machine import HANG_S


def router() -> LeastWork:
    made = LeastWork.__new__(LeastWork)  # Without Serve, which has the constructor.
    made.initialize_state(max_wait_s=60)
    return made


def two_replicas(ahead_s: float, told_at: float | None = None) -> list[Any]:
    """`a`, which has nothing to do, and `b`, which has so much."""
    told_at = time.time() if told_at is None else told_at
    return [
        SimpleNamespace(
            replica_id=name, routing_stats={"at": told_at, "ahead_s": work_s, "image_step_s": 0.1}
        )
        for name, work_s in (("a", 0.0), ("b", ahead_s))
    ]


def request(name: str, method: str = "draw", steps: int = 10, **changes: object) -> PendingRequest:
    metadata = SimpleNamespace(call_method=method, internal_request_id=name)
    return PendingRequest([generation(num_inference_steps=steps, **changes)], {}, metadata)


async def first_choices(made: LeastWork, replicas: list[Any], *requests: PendingRequest) -> str:
    """One letter a request, none of which any replica has taken yet."""
    chosen = [(await made.choose_replicas(replicas, one))[0][0].replica_id for one in requests]
    return "".join(chosen)


async def test_a_burst_is_spread_before_any_replica_has_told_of_it() -> None:
    replicas = two_replicas(0.5)
    # A second of work each.
    burst = [request(str(number)) for number in range(4)]
    assert await first_choices(router(), replicas, *burst) == "abab"


async def test_ray_waits_before_it_asks_full_replicas_again() -> None:
    asked = request("1")
    await router().choose_replicas(two_replicas(0.5), asked)
    assert asked.routing_context.should_backoff


async def test_a_larger_picture_is_more_work() -> None:
    replicas = two_replicas(0.5)
    # Four seconds of work, then one each.
    large = request("large", width_px=128, height_px=128)
    small = [request(str(number)) for number in range(4)]
    assert await first_choices(router(), replicas, large, *small) == "abbbb"


async def test_a_request_that_another_replica_took_counts_there() -> None:
    made, replicas = router(), two_replicas(0.5)
    asked = request("1")
    assert await first_choices(made, replicas, asked) == "a"
    made.on_request_routed(asked, "b", None)
    assert await first_choices(made, replicas, request("2"), request("3")) == "aa"


async def test_what_a_replica_has_told_of_counts_once_however_late_it_says_that_it_took_it() -> (
    None
):
    made, asked = router(), request("1", steps=150)
    assert await first_choices(made, two_replicas(1), asked) == "a"
    # Over gRPC the replica's word comes with its answer; by then it has no work left.
    later = two_replicas(1)
    assert await first_choices(made, later, request("2", steps=1)) == "a"
    made.on_request_routed(asked, "a", None)
    assert await first_choices(made, later, request("3", steps=1)) == "a"


async def test_a_question_is_no_work() -> None:
    replicas = two_replicas(0.5)
    asked = [request(str(number), "forecast") for number in range(3)]
    assert await first_choices(router(), replicas, *asked) == "aaa"


async def test_a_clock_that_is_put_back_does_not_leave_a_replica_loaded_for_hours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made, now = router(), 1_000_000.0
    replicas = two_replicas(1, now)
    monkeypatch.setattr(routing, "time", SimpleNamespace(time=lambda: now + 0.5))
    assert await first_choices(made, replicas, request("1", steps=150)) == "a"
    put_back = now - 7200
    monkeypatch.setattr(routing, "time", SimpleNamespace(time=lambda: put_back))
    # Both have told since, that they have nothing to do but this.
    assert await first_choices(made, two_replicas(1, put_back), request("2", steps=1)) == "a"


# Waiting for a replica -------------------------------------------------------------------------


class Replica(SimpleNamespace):
    """A replica with so many requests, of which it takes one at once."""

    replica_id, routing_stats, max_ongoing_requests = "a", None, 1
    queue_len: int | None = 0

    async def get_queue_len(self, *, deadline_s: float) -> int:
        if self.queue_len is None:
            raise ActorUnavailableError("no answer", None)
        return self.queue_len


def waiting_room(max_wait_s: float) -> LeastWork:
    """Serve's own request router with ours in it, and no replica yet."""
    made = LeastWork(DeploymentID("original"), DeploymentHandleSource.REPLICA)
    made.initialize_state(max_wait_s=max_wait_s)
    return made


async def chosen(made: LeastWork, asked: PendingRequest, **retry: bool) -> Any:
    return await made._choose_replica_for_request(asked, **retry)


def waiting(name: str, method: str = "draw", **changes: object) -> PendingRequest:
    asked = request(name, method, **changes)
    asked.metadata.multiplexed_model_id = ""
    asked.metadata.request_id = name
    return asked


async def test_a_request_waits_no_longer_than_it_may_and_then_is_nobodys() -> None:
    made, asked = waiting_room(0.05), waiting("1")
    with pytest.raises(DeploymentUnavailableError):
        await asyncio.wait_for(chosen(made, asked), HANG_S)
    assert asked.future.cancelled()
    # As behind a full queue; a replica that sent it back too late doesn't get it again.
    made.update_replicas([full := Replica(queue_len=1)])
    for late, retry in ((waiting("2"), False), (asked, True)):
        with pytest.raises(BackPressureError):
            await asyncio.wait_for(chosen(made, late, is_retry=retry), HANG_S)
    # One that doesn't answer any more may be anything.
    made.on_replica_actor_unavailable(full.replica_id)
    full.queue_len = None
    with pytest.raises(DeploymentUnavailableError):
        await asyncio.wait_for(chosen(made, waiting("3")), HANG_S)


async def test_a_request_waits_no_longer_than_its_deadline() -> None:
    asked = waiting("1", deadline_at=time.time() + 0.05)
    with pytest.raises(DeploymentUnavailableError):
        await asyncio.wait_for(chosen(waiting_room(2 * HANG_S), asked), HANG_S)


async def test_a_replica_that_comes_up_gets_the_requests_that_wait() -> None:
    made = waiting_room(2 * HANG_S)
    both = [asyncio.create_task(chosen(made, waiting(name))) for name in "12"]
    await asyncio.sleep(0)
    assert not any(task.done() for task in both)
    made.update_replicas([replica := Replica()])
    assert await asyncio.wait_for(asyncio.gather(*both), HANG_S) == [replica, replica]


@pytest.mark.parametrize("question", ["forecast", "info"])
async def test_a_question_waits_for_no_replica(question: str) -> None:
    made = waiting_room(2 * HANG_S)
    with pytest.raises(DeploymentUnavailableError):
        await asyncio.wait_for(chosen(made, waiting("1", question)), HANG_S)
    made.update_replicas([replica := Replica()])
    assert await asyncio.wait_for(chosen(made, waiting("2", question)), HANG_S) is replica
