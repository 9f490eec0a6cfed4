"""The simulation beside what was measured, and where nothing could be measured."""

import statistics
from collections.abc import Sequence
from typing import Any

from serve.engine.sweep import sweep
from serve.pipelines.trajectories import unet_calls

from ..arrivals import poisson
from ..samples import percentile
from .policies import MIXES, POLICIES
from .simulation import Device, Request, latencies_s, saturation_per_s
from .traffic import Calls, shuffled

# A simulated mean further from the measured one is marked in the report.
TOLERANCE = 0.15
_LOADS = (0.3, 0.5, 0.7, 0.9)
_MOST_LOAD = 0.95

# Fixed seconds of a call and seconds an image, from public figures of SD 1.x at 512x512.
MODELLED = {
    "A100": Device.linear(7.3e-3, 6.45e-3),
    "T4": Device.linear(5.6e-3, 69e-3),
    # From the table below: one image in 241 ms, eight in 1.194 s, 26 calls.
    "H200": Device.linear(4.04e-3, 5.23e-3),
}
# An independent simulation of an H200 that came before this engine: mean and p95, ms, one-image
# requests of 25 steps; `batch` there is at most eight, without waiting for more.
H200_BEFORE_MS = {
    "serial": {0.3: (354, 713), 0.5: (746, 1906)},
    "batch": {0.3: (336, 607), 0.5: (464, 881), 0.7: (701, 1401), 0.9: (1538, 3318)},
    "step": {0.3: (328, 537), 0.5: (439, 808), 0.7: (641, 1211), 0.9: (1417, 3234)},
}
# How far, in percent, it had step-level batching cut the mean of mixed steps.
H200_BEFORE_CUTS = {0.5: 21, 0.7: 33, 0.9: 37}


def measured_device(calls: Calls, begin_s: float) -> Device:
    """What the engines' calls took on average in the very runs that were measured."""
    return Device(
        {images: statistics.fmean(seconds) for images, seconds in sorted(calls.call_s.items())},
        begin_s,
        statistics.fmean(calls.decode_s),
    )


def against_measured(policies: dict[str, Any], device: Device) -> list[dict[str, Any]]:
    """Simulated over measured means of every cell and policy, over the same arrivals."""
    found = []
    for cell in policies["cells"]:
        for policy, figures in cell["policies"].items():
            simulated = [
                latency
                for repeat in cell["arrivals"]
                for latency in latencies_s(
                    policy, policies["cap"], device, [Request(*one) for one in repeat]
                )
            ]
            measured = [latency for run in figures["samples"] for latency, _, _ in run]
            ratio = statistics.fmean(simulated) / statistics.fmean(measured)
            found.append(
                {
                    "mix": cell["mix"],
                    "load": cell["load"],
                    "policy": policy,
                    "measured_s": statistics.fmean(measured),
                    "simulated_s": statistics.fmean(simulated),
                    "ratio": ratio,
                    "within": abs(ratio - 1) <= TOLERANCE,
                }
            )
    return found


def simulated_table(name: str, device: Device, cap: int, requests: int) -> dict[str, Any]:
    """All policies at several loads, with mixed and with uniform steps.

    `together` is policy `batch` where no picture is handed out before its batch is through, as a
    server has it that calls a pipeline.
    """
    rows = []
    saturations = {}
    for mix, steps in MIXES.items():
        saturation = {
            policy: saturation_per_s(policy, cap, device, _calls(steps, 60 * cap))
            for policy in POLICIES
        }
        saturations[mix] = saturation
        for load in _LOADS:
            rate_per_s = load * saturation["batch"]
            # Not a fixed number of them, which would even out what queues live on.
            instants = poisson(rate_per_s, requests / rate_per_s)
            calls = _calls(steps, len(instants))
            arrivals = [Request(*one) for one in zip(instants, calls, strict=True)]
            found: dict[str, dict[str, float | None]] = {}
            for policy in POLICIES:
                if load * saturation["batch"] <= _MOST_LOAD * saturation[policy]:
                    found[policy] = _figures(latencies_s(policy, cap, device, arrivals))
            found["together"] = _figures(latencies_s("batch", cap, device, arrivals, together=True))
            rows.append({"mix": mix, "load": load, "policies": found})
    return {
        "name": name, "cap": cap, "requests": requests, "saturation": saturations, "rows": rows,
    }  # fmt: skip


def modelled_tables(requests: int) -> list[dict[str, Any]]:
    """Devices that are not at hand, each with the slots that the start-up sweep would give it."""
    tables = []
    for name, device in MODELLED.items():
        cap, _ = sweep(device.call_s.__getitem__)
        tables.append(simulated_table(name, device, cap, requests))
    return tables


def _calls(steps: Sequence[int], requests: int) -> list[int]:
    return [unet_calls("pndm", one) for one in shuffled(steps, requests, seed=0)]


def _figures(latencies: list[float]) -> dict[str, float | None]:
    return {"mean_s": statistics.fmean(latencies), "p95_s": percentile(latencies, 95)}
