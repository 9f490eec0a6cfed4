"""The simulation of the engine's slots, held to what queueing theory knows."""

import statistics

import pytest

from loadtests.arrivals import poisson
from loadtests.bench.extrapolation import H200_BEFORE_MS, MODELLED
from loadtests.bench.simulation import Device, Request, latencies_s, saturation_per_s
from loadtests.bench.traffic import MIXED, UNIFORM, shuffled
from serve.engine.slots import Policy


def arrivals(
    requests: int, rate_per_s: float, calls: tuple[int, ...] = (26,), seed: int = 0
) -> list[Request]:
    instants = poisson(rate_per_s, requests / rate_per_s, seed)
    steps = shuffled(calls, len(instants), seed)
    return [Request(*one) for one in zip(instants, steps, strict=True)]


def mean_s(policy: Policy, cap: int, device: Device, requests: list[Request]) -> float:
    return statistics.fmean(latencies_s(policy, cap, device, requests))


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_one_slot_is_an_m_d_1_queue(load: float) -> None:
    # Pollaczek and Khinchine: the mean wait is load * service / (2 * (1 - load)).
    service_s = 26 * 0.01
    device = Device({1: 0.01})
    found_s = statistics.fmean(
        mean_s("serial", 1, device, arrivals(6000, load / service_s, seed=seed))
        for seed in range(2)
    )
    assert found_s - service_s == pytest.approx(load * service_s / (2 * (1 - load)), rel=0.1)


@pytest.mark.parametrize("policy", ["batch", "step"])
def test_with_one_slot_every_policy_is_the_same(policy: Policy) -> None:
    requests, device = arrivals(300, 3.0, (11, 26, 51)), Device({1: 0.01})
    assert latencies_s(policy, 1, device, requests) == latencies_s("serial", 1, device, requests)


def test_serial_is_one_at_a_time_however_many_slots_there_are() -> None:
    requests = arrivals(300, 3.0)
    device = Device(dict.fromkeys(range(1, 9), 0.01))
    assert latencies_s("serial", 8, device, requests) == latencies_s("serial", 1, device, requests)


@pytest.mark.parametrize("calls", [(26,), (11, 26, 51)], ids=["uniform", "mixed"])
def test_steps_on_a_saturated_device_share_it_as_processor_sharing_does(
    calls: tuple[int, ...],
) -> None:
    # Its mean is service / (1 - load), whatever the distribution of the work (Kleinrock).
    load, step_s = 0.6, 0.01
    service_s = step_s * statistics.fmean(calls)
    device = Device.linear(0.0, step_s, most=200)
    found_s = statistics.fmean(
        mean_s("step", 200, device, arrivals(3000, load / service_s, calls, seed))
        for seed in range(2)
    )
    assert found_s == pytest.approx(service_s / (1 - load), rel=0.1)


def test_where_images_cost_nothing_nobody_waits_but_for_the_next_step() -> None:
    device = Device(dict.fromkeys(range(1, 201), 0.01))
    latencies = latencies_s("step", 200, device, arrivals(2000, 20.0))
    assert min(latencies) >= 0.26 - 1e-9
    assert max(latencies) <= 0.27 + 1e-9


def test_beginning_and_decoding_are_part_of_the_latency() -> None:
    # The second begins and is decoded after the first.
    device = Device({1: 1.0, 2: 1.0}, begin_s=0.1, decode_s=0.25)
    requests = [Request(0.0, 2), Request(0.0, 2)]
    assert latencies_s("step", 2, device, requests) == pytest.approx([2.45, 2.7])
    assert latencies_s("serial", 2, device, requests) == pytest.approx([2.35, 4.45])


def test_pictures_handed_out_together_wait_for_the_longest_of_their_batch() -> None:
    device = Device({1: 1.0, 2: 1.5})
    requests = [Request(0.0, 1), Request(0.0, 3)]
    assert latencies_s("batch", 2, device, requests) == pytest.approx([1.5, 3.5])
    assert latencies_s("batch", 2, device, requests, together=True) == pytest.approx([3.5, 3.5])


@pytest.mark.parametrize("policy", ["batch", "step"])
def test_full_slots_draw_what_their_calls_allow(policy: Policy) -> None:
    device = Device.linear(0.004, 0.005)
    expected = 4 / (26 * (0.004 + 4 * 0.005))
    assert saturation_per_s(policy, 4, device, [26] * 40) == pytest.approx(expected)
    assert saturation_per_s("serial", 4, device, [26] * 40) == pytest.approx(1 / (26 * 0.009))


def test_mixed_steps_leave_slots_of_a_batch_empty() -> None:
    device = Device.linear(0.004, 0.005)
    mixed = [step + 1 for step in shuffled(MIXED, 400, seed=0)]
    assert saturation_per_s("step", 8, device, mixed) > 1.03 * saturation_per_s(
        "batch", 8, device, mixed
    )


def test_unmeasured_numbers_of_images_lie_on_the_line_between_the_measured() -> None:
    assert Device({1: 1.0, 4: 2.5}).times(4) == pytest.approx({1: 1.0, 2: 1.5, 3: 2.0, 4: 2.5})


@pytest.mark.thorough
@pytest.mark.parametrize("policy", ["serial", "batch", "step"])
def test_an_independent_simulation_of_an_h200_is_reproduced(policy: Policy) -> None:
    # Its call times are derived from its own column for one at a time.
    device = MODELLED["H200"]
    calls = [steps + 1 for steps in shuffled(UNIFORM, 200, seed=0)]
    saturation = saturation_per_s("batch", 8, device, calls)
    for load, (expected_ms, _) in H200_BEFORE_MS[policy].items():
        found_s = statistics.fmean(
            mean_s(policy, 8, device, arrivals(4000, load * saturation, seed=seed))
            for seed in range(2)
        )
        assert 1000 * found_s == pytest.approx(expected_ms, rel=0.1)
