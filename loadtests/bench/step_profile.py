"""Where the time of one UNet step goes, by torch's own profiler."""

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from ..published import PROMPT
from .contenders import Ours

_STEPS = 5
_OPERATORS = 10


def profile_step(ours: Ours, batch: int) -> dict[str, Any]:
    """The operators that take most of a step of so many images, and their shares of it.

    On a GPU by time on it, with `busy`, the share of the wall time that it computes: what is
    missing there goes to launches. On a CPU by its own time.
    """
    cuda = ours.pipeline.device.type == "cuda"
    trajectories = ours.begin(PROMPT, range(batch), _STEPS + 3)
    ours.pipeline.step(trajectories)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities, acc_events=True) as profiler:
        for _ in range(_STEPS):
            ours.pipeline.step(trajectories)
        if cuda:
            torch.cuda.synchronize()
    events = profiler.key_averages()
    own_us = {
        event.key: float(event.self_device_time_total if cuda else event.self_cpu_time_total)
        for event in events
    }
    calls = {event.key: event.count / _STEPS for event in events}
    total_us = sum(own_us.values())
    largest = sorted(own_us, key=lambda key: own_us[key], reverse=True)[:_OPERATORS]
    found: dict[str, Any] = {
        "variant": ours.variant.name,
        "batch": batch,
        "step_ms": total_us / _STEPS / 1000,
        "operators": [
            {"name": key, "share": own_us[key] / total_us, "calls": calls[key]} for key in largest
        ],
    }
    if cuda:
        wall_us = sum(float(event.self_cpu_time_total) for event in events)
        found["busy"] = min(1.0, total_us / wall_us)
    return found
