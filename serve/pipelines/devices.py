"""The device: its choice, copies to and from it, the order of work on it, and its memory.

On a CPU a call has finished when it returns, so streams and events do nothing. On CUDA a call only
launches work: `begin` and `step` use the default stream, `prepare`, `decode` and `preview`, which
run on another thread, a stream of their own. Events order the two.
"""

import fcntl
import functools
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

import torch

from ..errors import DeviceUnavailable, OutOfDeviceMemory
from ..replica_info import Memory, cpu_name

DeviceName = Literal["auto", "cpu", "cuda"]

_log = logging.getLogger("ray.serve")
# What a replica measures takes seconds; a few replicas may be before this one.
_LONGEST_WAIT_S = 60.0

P = ParamSpec("P")
T = TypeVar("T")


def resolve_device(name: DeviceName) -> tuple[torch.device, torch.dtype]:
    """The device and its dtype: fp16 on CUDA, fp32 on a CPU.

    CPUs emulate half precision and are 7x slower with it.

    Raises:
        DeviceUnavailable: `cuda` was configured, but there is no CUDA device.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DeviceUnavailable(
            "device: 'cuda' was configured, but torch finds no CUDA device here; "
            "use 'cpu', or 'auto' to take what is available"
        )
    if name == "cuda" or (name == "auto" and available):
        return torch.device("cuda"), torch.float16
    return torch.device("cpu"), torch.float32


def name_memory_errors(call: Callable[P, T]) -> Callable[P, T]:
    """Decorator that turns torch's out-of-memory error into `OutOfDeviceMemory`."""

    @functools.wraps(call)
    def named(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except torch.OutOfMemoryError as fault:
            message = str(fault).splitlines()[0]
        # Raised outside the handler: torch's error as `__context__` would keep the tensors alive.
        raise OutOfDeviceMemory(f"{call.__name__}: {message}")

    return named


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy from main memory; on CUDA asynchronously, from a pinned copy that torch keeps alive."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class StepClock:
    """Records events in the stream of the steps, and keeps the host at most one step ahead."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._last_step: torch.cuda.Event | None = None

    def mark(self) -> torch.cuda.Event | None:
        """An event after all work launched so far; None on a CPU, where it is done already."""
        if not self._cuda:
            return None
        # Blocking waits sleep instead of spinning: the core is needed to encode pictures.
        event = torch.cuda.Event(blocking=True)
        event.record()
        return event

    def wait_for(self, ready: torch.cuda.Event | None, tensors: Iterable[torch.Tensor]) -> None:
        """Let what is launched from now on wait for tensors of the other stream."""
        if ready is None:
            return
        stream = torch.cuda.current_stream()
        stream.wait_event(ready)
        for tensor in tensors:
            tensor.record_stream(stream)

    def keep_pace(self) -> None:
        """Call after launching a step: waits until the step before it is done.

        Launches then overlap with the device's work, and step times still show its pace.
        """
        before, self._last_step = self._last_step, self.mark()
        if before is not None:
            before.synchronize()


class SideStream:
    """A second stream beside that of the steps, for one other thread."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def reading(
        self, tensors: Iterable[torch.Tensor], ready: Iterable[torch.cuda.Event | None]
    ) -> Iterator[None]:
        """Run in this stream on tensors of another, once the events have completed."""
        if self._stream is None:
            yield
            return
        for event in ready:
            if event is not None:
                self._stream.wait_event(event)
        for tensor in tensors:
            # Otherwise their memory could be reused as soon as the other stream drops them.
            tensor.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            yield

    def finish(self) -> torch.cuda.Event | None:
        """Wait for what was launched; an event after it, None on a CPU. For inside `reading`."""
        if self._stream is None:
            return None
        event = torch.cuda.Event(blocking=True)
        event.record()
        event.synchronize()
        return event

    def fetch(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Copies in main memory, with a single wait for all; call it inside `reading`."""
        if self._stream is None:
            return list(tensors)
        copies = [
            torch.empty(source.shape, dtype=source.dtype, pin_memory=True).copy_(
                source, non_blocking=True
            )
            for source in tensors
        ]
        done = torch.cuda.Event(blocking=True)
        done.record()
        done.synchronize()
        return copies


def clock_s(device: torch.device) -> float:
    """A clock for timing the calling thread's calls: wall time on CUDA, CPU time on a CPU.

    With several torch threads on a CPU, the calling one does its share of every call.
    """
    # By wall time, three replicas starting on two cores each found 1 or 2 slots where 8 fit.
    return time.thread_time() if device.type == "cpu" else time.perf_counter()


@contextmanager
def measuring(device: torch.device, longest_wait_s: float = _LONGEST_WAIT_S) -> Iterator[None]:
    """While open, no other process of this machine measures on the same GPU.

    What is measured at start-up is kept for good, and replicas that share a GPU start together.
    Waits for a while only, since a measurement that was disturbed is better than no start. On a CPU
    it does nothing: its clock doesn't count others' work.
    """
    if device.type != "cuda":
        yield
        return
    # By UUID: each process may number the GPUs that it sees from 0.
    name = f"distilled-sd-serve-{torch.cuda.get_device_properties(device).uuid}.lock"
    lock = None
    # Another user may own the file.
    with suppress(OSError):
        path = Path(tempfile.gettempdir(), name)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        if lock is not None and not _locked(lock, longest_wait_s):
            _log.warning("another process has measured on this GPU for %.0f s", longest_wait_s)
        yield
    finally:
        if lock is not None:
            os.close(lock)  # Gives the lock back, as the kernel does when a process dies.


def _locked(file: int, longest_wait_s: float) -> bool:
    deadline = time.monotonic() + longest_wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)


def free_memory_bytes(device: torch.device) -> int:
    """Free memory of a CUDA device, including torch's own unused blocks."""
    free, _ = torch.cuda.mem_get_info(device)
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + unused)


def device_name(device: torch.device) -> str:
    """What the device calls itself; a CPU's name begins with "CPU"."""
    return str(torch.cuda.get_device_name(device)) if device.type == "cuda" else cpu_name()


def memory(device: torch.device) -> Memory:
    """What this process takes of main memory and, on CUDA, of the device; from any thread."""
    # Not getrusage, whose peak may be that of the process which started this one.
    main = _status_bytes()
    if device.type != "cuda":
        return Memory(main.get("VmRSS"), main.get("VmHWM"))
    stats = torch.cuda.memory_stats(device)
    return Memory(
        main.get("VmRSS"),
        main.get("VmHWM"),
        stats["allocated_bytes.all.current"],
        stats["allocated_bytes.all.peak"],
        stats["reserved_bytes.all.current"],
        stats["reserved_bytes.all.peak"],
        torch.cuda.mem_get_info(device)[0],
    )


def _status_bytes() -> dict[str, int]:
    """The sizes in Linux's account of this process; empty elsewhere."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return {}
    fields = [line.split() for line in lines if line.endswith(" kB")]
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, _ in fields}


def recorded_bytes() -> int:
    """Of torch's unused blocks, those in pools that only CUDA graphs' replays can use."""
    return sum(
        segment["total_size"] - segment["allocated_size"]
        for segment in torch.cuda.memory_snapshot()
        if tuple(segment["segment_pool_id"]) != (0, 0)
    )
