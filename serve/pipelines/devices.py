"""The device: which one, copies to and from it, the order of work on it, and its memory.

On a CPU a call has finished when it returns, and everything here does nothing. On CUDA a call only
launches: `begin` and `step` use the default stream, `decode` and `preview`, which another thread
calls, one of their own. Events say what must have happened before.
"""

import functools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, ParamSpec, TypeVar

import torch

from ..errors import DeviceUnavailable, OutOfDeviceMemory

DeviceName = Literal["auto", "cpu", "cuda"]

P = ParamSpec("P")
T = TypeVar("T")


def resolve_device(name: DeviceName) -> tuple[torch.device, torch.dtype]:
    """The device, and the one place that decides the dtype: fp16 on CUDA, fp32 on a CPU.

    A CPU emulates half precision and is 7x slower with it.

    Raises:
        DeviceUnavailable: CUDA was asked for by name and isn't there.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DeviceUnavailable(
            "device: 'cuda' was configured, but torch finds no CUDA device here; "
            "use 'cpu', or 'auto' to take what is there"
        )
    if name == "cuda" or (name == "auto" and available):
        return torch.device("cuda"), torch.float16
    return torch.device("cpu"), torch.float32


def name_memory_errors(call: Callable[P, T]) -> Callable[P, T]:
    """Make torch's out-of-memory error ours.

    Raises:
        OutOfDeviceMemory: the call found no memory on the device.
    """

    @functools.wraps(call)
    def named(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return call(*args, **kwargs)
        except torch.OutOfMemoryError as fault:
            message = str(fault).splitlines()[0]
        # Outside the handler: as its context, the fault would hold the failed call's tensors.
        raise OutOfDeviceMemory(f"{call.__name__}: {message}")

    return named


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy from main memory, on CUDA without waiting: a pinned copy is made in the stream's order.

    torch keeps the pinned memory until the copy is done.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class StepClock:
    """Marks moments of the stream that steps run on, and keeps the host at most a step ahead."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._last_step: torch.cuda.Event | None = None

    def mark(self) -> torch.cuda.Event | None:
        """What has been launched until now; None on a CPU, where it has been done."""
        if not self._cuda:
            return None
        # Whoever waits for it sleeps: the core is for encoding pictures.
        event = torch.cuda.Event(blocking=True)
        event.record()
        return event

    def keep_pace(self) -> None:
        """Call after a step was launched: waits until the step before it is done.

        So launches overlap with the device's work, and whoever times steps still sees its pace.
        """
        before, self._last_step = self._last_step, self.mark()
        if before is not None:
            before.synchronize()


class SideStream:
    """A stream beside that of the steps, for one other thread."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def reading(
        self, tensors: Iterable[torch.Tensor], ready: Iterable[torch.cuda.Event | None]
    ) -> Iterator[None]:
        """Work in this stream with tensors of another, once the events have happened."""
        if self._stream is None:
            yield
            return
        for event in ready:
            if event is not None:
                self._stream.wait_event(event)
        for tensor in tensors:
            # Else their memory could be used again as soon as its owner drops them.
            tensor.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            yield

    def fetch(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """Copies in main memory, waiting for them once; call it inside `reading`."""
        if self._stream is None:
            return list(tensors)
        copies = [
            torch.empty(one.shape, dtype=one.dtype, pin_memory=True).copy_(one, non_blocking=True)
            for one in tensors
        ]
        done = torch.cuda.Event(blocking=True)
        done.record()
        done.synchronize()
        return copies


def clock_s(device: torch.device) -> float:
    """Seconds to time the calling thread's calls with; on a CPU those that it had a core for.

    With several torch threads on a CPU, the calling one has its share of every call.
    """
    # By wall time, three replicas starting on two cores each found 1 or 2 slots where 8 fit.
    return time.thread_time() if device.type == "cpu" else time.perf_counter()


def free_memory_bytes(device: torch.device) -> int:
    """What a CUDA device has left, torch's own unused blocks included."""
    free, _ = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free + held)
