"""What a replica says of itself: what it runs on, and the memory that it takes."""

import platform
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that a replica takes; peaks count from its start, with loading and warm-up.

    `rss_bytes` is its process's main memory; None where the operating system doesn't say. The
    others are CUDA's, None on a CPU: what tensors take (`allocated`), what torch keeps for them
    (`reserved`, to which the driver adds its own), and what is free on the whole device.
    """

    rss_bytes: int | None = None
    peak_rss_bytes: int | None = None
    allocated_bytes: int | None = None
    peak_allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ReplicaInfo:
    """One replica. `device` is what its device calls itself; a CPU's name begins with "CPU"."""

    device: str
    memory: Memory


def cpu_name() -> str:
    """What the CPU calls itself, beginning with "CPU"."""
    try:
        cpu_info = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in cpu_info if line.startswith("model name"))
        return f"CPU, {model.partition(':')[2].strip()}"
    except (OSError, StopIteration):
        return f"CPU, {platform.machine()}"
