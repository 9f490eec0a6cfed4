"""What the machine did meanwhile: CPU that others took, and processes' memory and descriptors."""

import contextlib
import re
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_EVERY_S = 2.0
# Ray gives a worker's process its actor's name; between calls only that.
_REPLICA = re.compile(r"ray::ServeReplica:(?P<app>[\w-]+?):(?P<deployment>[\w-]+)")
_PROXY = "ray::ProxyActor"


def title(process: psutil.Process) -> str:
    """What a process calls itself; empty where it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def role_of(title: str) -> str:
    """`app:deployment` of a replica, "proxy", or empty."""
    if found := _REPLICA.search(title):
        return f"{found['app']}:{found['deployment']}"
    return "proxy" if title.startswith(_PROXY) else ""


def by_role() -> dict[str, list[psutil.Process]]:
    """The processes of this process's own Ray that serve, by role."""
    found = defaultdict(list)
    for process in psutil.Process().children(recursive=True):
        if role := role_of(title(process)):
            found[role].append(process)
    return found


class BusyWatch(threading.Thread):
    """Watches how much of the machine others take: what is busy, less this process and its own."""

    def __init__(self) -> None:
        super().__init__(name="busy", daemon=True)
        self._seen: list[tuple[float, float, float]] = []
        self._own: dict[tuple[int, float], float] = {}
        self._over = threading.Event()

    def run(self) -> None:
        """Look every two seconds, until `stop`."""
        while not self._over.wait(_EVERY_S):
            self.look()

    def look(self) -> None:
        """Note now."""
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                # What ended since the last look has spent at least this.
                self._own[process.pid, process.create_time()] = times.user + times.system
        self._seen.append((time.monotonic(), _busy_s(), sum(self._own.values())))

    def stop(self) -> None:
        """Look no more."""
        self._over.set()

    def others_share(self, from_s: float, to_s: float) -> float:
        """Which part of all cores others used between two moments of the monotonic clock."""
        return others_share([one for one in self._seen if from_s <= one[0] <= to_s])


def others_share(seen: Sequence[tuple[float, float, float]]) -> float:
    """From (moment, all busy seconds, own seconds); 0 where there are fewer than two."""
    if len(seen) < 2:
        return 0.0
    (began_s, busy_0, own_0), *_, (ended_s, busy_1, own_1) = seen
    others_s = (busy_1 - busy_0) - (own_1 - own_0)
    return max(0.0, others_s / (ended_s - began_s) / (psutil.cpu_count() or 1))


def _busy_s() -> float:
    times: Any = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)


@dataclass(frozen=True)
class Held:
    """What one process held at a moment; bytes are its proportional share (PSS)."""

    at_s: float
    role: str
    pid: int
    memory_bytes: int
    descriptors: int


def held() -> list[Held]:
    """What every serving process holds now."""
    now_s = time.monotonic()
    found = []
    for role, processes in by_role().items():
        for process in processes:
            # It may end while it is looked at.
            with contextlib.suppress(psutil.Error, OSError):
                found.append(Held(now_s, role, process.pid, _pss(process.pid), process.num_fds()))
    return found


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"no Pss of {pid}")


@dataclass(frozen=True)
class Growth:
    """Of one process: from the median of the first to that of the last fifth of what was seen."""

    role: str
    pid: int
    memory_bytes: tuple[int, int]
    descriptors: tuple[int, int]

    @property
    def memory(self) -> float:
        """As a share: 0.05 for five percent."""
        first, last = self.memory_bytes
        return last / first - 1


def growth(seen: Sequence[Held]) -> list[Growth]:
    """Of each process that was there all the time."""
    moments = sorted({one.at_s for one in seen})
    fifth = max(1, len(moments) // 5)
    firsts, lasts = set(moments[:fifth]), set(moments[-fifth:])
    found = []
    for role, pid in sorted({(one.role, one.pid) for one in seen}):
        mine = [one for one in seen if one.pid == pid]
        first = [one for one in mine if one.at_s in firsts]
        last = [one for one in mine if one.at_s in lasts]
        if first and last:
            found.append(
                Growth(
                    role,
                    pid,
                    (
                        int(statistics.median(one.memory_bytes for one in first)),
                        int(statistics.median(one.memory_bytes for one in last)),
                    ),
                    (
                        int(statistics.median(one.descriptors for one in first)),
                        int(statistics.median(one.descriptors for one in last)),
                    ),
                )
            )
    return found
