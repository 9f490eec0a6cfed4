"""The slots with a virtual clock, held to what queueing theory knows."""

import random
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest

from loadtests.arrivals import poisson
from serve.engine.slots import Policy, Slots

STEP_S = 0.01


@dataclass(eq=False)
class FakeImage:
    arrives_s: float
    calls_left: int
    group: None = None
    latency_s: float = 0.0
    prepared: bool = True


def arrivals(
    requests: int, rate_per_s: float, calls: Sequence[int] = (26,), seed: int = 0
) -> list[FakeImage]:
    instants = poisson(rate_per_s, requests / rate_per_s, seed)
    drawn = random.Random(seed)
    return [FakeImage(at_s, drawn.choice(calls)) for at_s in instants]


def latencies_s(
    policy: Policy, cap: int, call_s: Callable[[int], float], images: Sequence[FakeImage]
) -> list[float]:
    """Play the slots over calls whose seconds are given by the images in them."""
    slots: Slots[FakeImage] = Slots(policy, cap)
    coming, now_s = deque(images), 0.0
    while coming or slots.waiting or slots.under_way:
        if not slots.waiting and not slots.under_way:
            now_s = max(now_s, coming[0].arrives_s)
        while coming and coming[0].arrives_s <= now_s:
            slots.add([coming.popleft()])
        slots.admit()
        chosen = slots.turn()
        now_s += call_s(len(chosen))
        for image in chosen:
            image.calls_left -= 1
            image.latency_s = now_s - image.arrives_s
        slots.remove([image for image in chosen if not image.calls_left])
    return [image.latency_s for image in images]


def one_pace(images: int) -> float:
    return STEP_S


def saturated(images: int) -> float:
    return STEP_S * images


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_slot_is_an_m_d_1_queue(load: float) -> None:
    # Pollaczek and Khinchine: the mean wait is load * service / (2 * (1 - load)).
    service_s = 26 * STEP_S
    found_s = statistics.fmean(
        statistics.fmean(
            latencies_s("step", 1, one_pace, arrivals(6000, load / service_s, seed=seed))
        )
        for seed in range(2)
    )
    assert found_s - service_s == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.1)


def test_with_one_slot_every_policy_is_the_same() -> None:
    step, batch = (
        latencies_s(policy, 1, one_pace, arrivals(300, 3.0, (11, 26, 51)))
        for policy in ("step", "batch")
    )
    assert step == batch


@pytest.mark.parametrize("calls", [(26,), (11, 26, 51)], ids=["uniform", "mixed"])
def test_steps_on_a_saturated_device_share_it_as_processor_sharing_does(
    calls: tuple[int, ...],
) -> None:
    # Its mean is service / (1 - load), whatever the distribution of the work (Kleinrock).
    load, service_s = 0.6, STEP_S * statistics.fmean(calls)
    found_s = statistics.fmean(
        statistics.fmean(
            latencies_s("step", 200, saturated, arrivals(3000, load / service_s, calls, seed))
        )
        for seed in range(2)
    )
    assert found_s == pytest.approx(service_s / (1 - load), rel=0.1)


def test_where_images_cost_nothing_nobody_waits_but_for_the_next_step() -> None:
    found_s = latencies_s("step", 200, one_pace, arrivals(2000, 20.0))
    assert min(found_s) >= 26 * STEP_S - 1e-9
    assert max(found_s) <= 27 * STEP_S + 1e-9


def test_mixed_steps_leave_slots_of_a_batch_empty() -> None:
    # All at the start: the last picture's time is the throughput's.
    ended_s = {
        policy: max(latencies_s(policy, 8, one_pace, arrivals(400, 1e6, (11, 26, 51))))
        for policy in ("batch", "step")
    }
    assert ended_s["batch"] > 1.03 * ended_s["step"]
