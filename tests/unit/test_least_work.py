"""Which replica is asked first, without a cluster: Serve calls the same methods."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from serve import routing
from tests.fakes import generation


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time of day."""
    now = SimpleNamespace(s=1_000_000.0)
    monkeypatch.setattr(routing, "time", SimpleNamespace(time=lambda: now.s))
    return now


def replica(name: str, told_at: float, ahead_s: float) -> Any:
    stats = {"at": told_at, "ahead_s": ahead_s, "image_step_s": 0.1}
    return SimpleNamespace(replica_id=name, routing_stats=stats)


def router() -> Any:
    one = routing.LeastWork.__new__(routing.LeastWork)
    one.initialize_state()
    return one


def route(one: Any, name: str, steps: int) -> None:
    asked = generation(num_inference_steps=steps)
    one.on_request_routed(
        SimpleNamespace(metadata=SimpleNamespace(call_method="draw"), args=[asked]), name, None
    )


def order(one: Any, *replicas: Any) -> list[str]:
    ranks = asyncio.run(one.choose_replicas(list(replicas)))
    return [rank[0].replica_id for rank in ranks]


def test_what_was_routed_since_a_replica_told_counts_until_it_tells_again(
    clock: SimpleNamespace,
) -> None:
    one = router()
    told_at = clock.s
    clock.s += 0.5
    route(one, "a", steps=50)
    assert order(one, replica("b", told_at, 3.0), replica("a", told_at, 0.0)) == ["b", "a"]
    clock.s += 0.5
    assert order(one, replica("b", clock.s, 3.0), replica("a", clock.s, 0.0)) == ["a", "b"]


def test_a_clock_that_is_put_back_does_not_leave_a_replica_loaded_for_hours(
    clock: SimpleNamespace,
) -> None:
    one = router()
    clock.s += 0.5
    route(one, "a", steps=150)
    clock.s -= 7200
    # Both have told since, that they have nothing to do but this.
    assert order(one, replica("b", clock.s, 1.0), replica("a", clock.s, 0.0)) == ["a", "b"]
