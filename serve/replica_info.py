"""What a replica says of itself: its device, memory, optimisations, and how it was prepared."""

import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

# A message that is longer than a sentence explains nothing more.
_REASON_CHARACTERS = 200
_PATH = re.compile(r"(?:/+[^\s/'\"`,;:()\[\]{}<>]+){2,}/?")


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
    """One replica; all but its memory is constant once it is loaded.

    `device` is what its device calls itself; a CPU's name begins with "CPU". `switched_on` names
    the optimisations that were tried and are on, `left_off` those that failed, each with a
    `public_reason`. `preparation_s` has the seconds of each part of loading and optimising.
    """

    device: str
    memory: Memory
    switched_on: Sequence[str] = ()
    left_off: Mapping[str, str] = field(default_factory=dict)
    preparation_s: Mapping[str, float] = field(default_factory=dict)


def public_reason(reason: str) -> str:
    """An error's message for clients: its first line, without paths, of at most 200 characters."""
    text = _PATH.sub("[path]", reason.strip().partition("\n")[0])
    cut = f"{text[: _REASON_CHARACTERS - 3]}..."
    return text if len(text) <= _REASON_CHARACTERS else cut


def cpu_name() -> str:
    """What the CPU calls itself, beginning with "CPU"."""
    try:
        cpu_info = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line for line in cpu_info if line.startswith("model name"))
        return f"CPU, {model.partition(':')[2].strip()}"
    except (OSError, StopIteration):
        return f"CPU, {platform.machine()}"
