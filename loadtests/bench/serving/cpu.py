"""Who spent CPU time, and what else the machine was doing meanwhile."""

import contextlib
import time
from collections import defaultdict

import psutil

# By words in a command line; the first that fits. What none fits is its parent's.
_ROLES = {
    "fastapi_floor ": "FastAPI",
    "loadtests.bench.serving": "client",
    "bin/haproxy": "HAProxy",
    "HAProxyManager": "Serve's controller and proxies",
    "ProxyActor": "Serve's controller and proxies",
    "ServeController": "Serve's controller and proxies",
    ":router": "router",
    "ServeReplica": "replica",
    "/ray/": "Ray",
    "ray::": "Ray",
}


class Account:
    """CPU time of this process and its descendants, from its making until `close`."""

    def __init__(self) -> None:
        self._began_at = time.perf_counter()
        self._own_s = _own_s()
        self._busy_s = _busy_s()

    def close(self) -> tuple[dict[str, float], float]:
        """CPU seconds by role, and how many cores other processes used.

        Those of other machines on the same hardware are among them, as far as the kernel knows.
        """
        seconds = time.perf_counter() - self._began_at
        busy_s = _busy_s() - self._busy_s
        spent: defaultdict[str, float] = defaultdict(float)
        for process, (role, cpu_s) in _own_s().items():
            spent[role] += cpu_s - self._own_s.get(process, (role, 0.0))[1]
        return dict(spent), max(0.0, busy_s - sum(spent.values())) / seconds


def role_of(command: str) -> str | None:
    """What a process is, by its command line."""
    return next((role for word, role in _ROLES.items() if word in command), None)


def _own_s() -> dict[tuple[int, float], tuple[str, float]]:
    """CPU seconds of each process, by its id and birth."""
    found = {}
    this = psutil.Process()
    for process in [this, *this.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            spent_s = times.user + times.system
            found[process.pid, process.create_time()] = _role(process), spent_s
    return found


def _role(process: psutil.Process) -> str:
    lineage = [process, *process.parents()]
    roles = (role_of(" ".join(ancestor.cmdline())) for ancestor in lineage)
    return next((role for role in roles if role is not None), "other")


def _busy_s() -> float:
    # Without interrupts, which the benchmark's own traffic causes, too.
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + getattr(times, "steal", 0.0))
