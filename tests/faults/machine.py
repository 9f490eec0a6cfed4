"""What the machine did meanwhile: CPU that others used, and what serving processes hold."""

import contextlib
import re
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

_EVERY_S = 2.0
# Ray gives a worker's process its actor's name; between calls only that.
_REPLICA = re.compile(r"ray::ServeReplica:([\w-]+?:[\w-]+)")


def role_of(title: str) -> str:
    """`app:deployment` of a replica, "proxy", or empty."""
    if found := _REPLICA.search(title):
        return found[1]
    return "proxy" if title.startswith("ray::ProxyActor") else ""


def by_role() -> dict[str, set[int]]:
    """The processes of this process's own Ray that serve, by role."""
    found = defaultdict(set)
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if role := role_of(" ".join(process.cmdline())):
                found[role].add(process.pid)
    return found


class BusyWatch(threading.Thread):
    """Watches how much of the machine others use: what is busy, less this process and its own."""

    def __init__(self) -> None:
        super().__init__(name="busy", daemon=True)
        self._seen: list[tuple[float, float, float]] = []
        self._own_s: dict[tuple[int, float], float] = {}

    def run(self) -> None:
        while True:
            time.sleep(_EVERY_S)
            me = psutil.Process()
            for process in [me, *me.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    cpu = process.cpu_times()
                    # What ended since the last look has used at least this.
                    self._own_s[process.pid, process.create_time()] = cpu.user + cpu.system
            all_cpus: Any = psutil.cpu_times()
            waiting = ("idle", "iowait", "guest")
            busy_s = sum(all_cpus) - sum(getattr(all_cpus, name, 0.0) for name in waiting)
            self._seen.append((time.monotonic(), busy_s, sum(self._own_s.values())))

    def others_share(self, from_s: float, to_s: float) -> float:
        """Which part of all cores others used between two moments of the monotonic clock."""
        return others_share([look for look in self._seen if from_s <= look[0] <= to_s])


def others_share(looks: Sequence[tuple[float, float, float]]) -> float:
    """From (moment, all busy seconds, own seconds); 0 where there are fewer than two."""
    if len(looks) < 2:
        return 0.0
    (began_s, busy_0, own_0), *_, (ended_s, busy_1, own_1) = looks
    others_s = (busy_1 - busy_0) - (own_1 - own_0)
    return max(0.0, others_s / (ended_s - began_s) / (psutil.cpu_count() or 1))


# Of a process: its proportional share of memory (PSS) in bytes, and its file descriptors.
Usage = tuple[int, int]


def usage_now() -> dict[tuple[str, int], Usage]:
    found = {}
    for role, pids in by_role().items():
        for pid in pids:
            # It may end while it is looked at.
            with contextlib.suppress(psutil.Error, OSError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
                pss = re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE)
                if pss is not None:
                    found[role, pid] = 1024 * int(pss[1]), psutil.Process(pid).num_fds()
    return found


@dataclass(frozen=True)
class Growth:
    """Of one process, from the median of the first to that of the last fifth of what was seen."""

    role: str
    first: Usage
    last: Usage

    @property
    def memory_share(self) -> float:
        """0.05 for five percent."""
        return self.last[0] / self.first[0] - 1

    @property
    def descriptors(self) -> int:
        return self.last[1] - self.first[1]


def growth(looks: Sequence[Mapping[tuple[str, int], Usage]]) -> list[Growth]:
    """Of each process that was there in the first and in the last fifth."""
    fifth = max(1, len(looks) // 5)
    found = []
    for process in sorted(looks[0]):
        ends = [
            [look[process] for look in part if process in look]
            for part in (looks[:fifth], looks[-fifth:])
        ]
        if all(ends):
            first, last = (
                (int(statistics.median(memory)), int(statistics.median(descriptors)))
                for memory, descriptors in (zip(*end, strict=True) for end in ends)
            )
            found.append(Growth(process[0], first, last))
    return found
