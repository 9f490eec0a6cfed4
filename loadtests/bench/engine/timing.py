"""Clocks; what the device can do at most, and the memory it took."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ...rounds import rotated


class Clock:
    """Seconds of work on a device.

    On a GPU wall time between two moments at which it is idle. On a CPU the CPU seconds of all of
    the process, with torch on one thread, as a replica has it: other work then disturbs less.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self.name = "wall time" if self._cuda else "CPU seconds of the process, torch on one thread"
        if not self._cuda:
            torch.set_num_threads(1)

    def now_s(self) -> float:
        """Only differences mean something."""
        if self._cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def time_s(self, work: Callable[[], Any]) -> float:
        """How long one call takes."""
        started_s = self.now_s()
        work()
        return self.now_s() - started_s


def alternate(
    contenders: Mapping[str, Callable[[], Any]], rounds: int, clock: Clock
) -> dict[str, list[float]]:
    """Time every contender in each round, in a different order each time; seconds by name."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_ in range(rounds):
        for name in rotated(contenders, round_):
            seconds[name].append(clock.time_s(contenders[name]))
    return seconds


def matmul_peak(device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    """FLOP/s of the largest square matrix product that runs for a sensible time; best of ten."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    torch.matmul(left, right)
    best_s = min(clock.time_s(lambda: torch.matmul(left, right)) for _ in range(10))
    return 2 * size**3 / best_s


def allocated_bytes(device: torch.device) -> int:
    """What tensors take on a GPU now, from where its peak is counted anew; on a CPU 0."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()
