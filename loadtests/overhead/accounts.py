"""Who spent CPU time, and what else the machine was doing meanwhile.

In process namespaces of one's own: all processes in sight are the benchmark's.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import psutil

# By words in a command line; the first that fits. What none fits is its parent's.
_ROLES = {
    "_rival ": "rival",
    "loadtests.overhead": "client",
    "bin/haproxy": "HAProxy",
    "HAProxyManager": "Serve's controller and proxies",
    "ProxyActor": "Serve's controller and proxies",
    "ServeController": "Serve's controller and proxies",
    ":router": "router",
    "ServeReplica": "replica",
    "/ray/": "Ray",
    "ray::": "Ray",
}


@dataclass(frozen=True)
class Usage:
    """What a stretch of time cost.

    `cpu_s` are CPU seconds by role. `others` is how many cores were used by processes that aren't
    the benchmark's, other machines on the same hardware included, as far as the kernel knows.
    `load` is the load average over a minute, the benchmark's own included, as it was at the end.
    """

    seconds: float
    cpu_s: Mapping[str, float]
    others: float
    load: float


class Account:
    """From its making until `close`."""

    def __init__(self) -> None:
        self._began_at = time.perf_counter()
        self._own_s = _own_s()
        self._busy_s = _busy_s()

    def close(self) -> Usage:
        """What has been spent."""
        seconds = time.perf_counter() - self._began_at
        busy_s = _busy_s() - self._busy_s
        spent: defaultdict[str, float] = defaultdict(float)
        for process, (role, cpu_s) in _own_s().items():
            spent[role] += cpu_s - self._own_s.get(process, (role, 0.0))[1]
        others = max(0.0, busy_s - sum(spent.values())) / seconds
        return Usage(seconds, dict(spent), others, psutil.getloadavg()[0])


def role(words: str) -> str | None:
    """What a process is, by its command line."""
    return next((name for word, name in _ROLES.items() if word in words), None)


def _own_s() -> dict[tuple[int, float], tuple[str, float]]:
    """CPU seconds of each process in sight, by its id and birth."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent_s = times.user + times.system
            found[process.pid, process.create_time()] = _role(process), spent_s
    return found


def _role(process: psutil.Process) -> str:
    lineage = [process, *process.parents()]
    named = (role(" ".join(one.cmdline())) for one in lineage)
    return next((name for name in named if name is not None), "other")


def _busy_s() -> float:
    # Without interrupts, which the benchmark's own traffic causes, too.
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + getattr(times, "steal", 0.0))
