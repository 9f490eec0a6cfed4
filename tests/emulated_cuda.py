"""In place of CUDA where there is none: recordings that run again, a capture without a device."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from serve.pipelines import compile
from serve.pipelines.cuda_graphs import Record, Recording


def record_again(call: Callable[[], tuple[torch.Tensor, ...]]) -> Recording:
    outputs = call()

    def replay() -> None:
        for output, result in zip(outputs, call(), strict=True):
            output.copy_(result)

    return Recording(replay, outputs)


def prepare_as_on_cuda(
    monkeypatch: pytest.MonkeyPatch,
    record: Record = record_again,
    compiler: Callable[..., Any] = lambda module, **_: module,
    seconds: Callable[[Callable[[], object]], float] = lambda call: 1.0,
) -> None:
    """Lets `compile` do all it does for models on CUDA, with these in place of torch's."""
    monkeypatch.setattr(compile, "on_cuda", lambda model: True)
    monkeypatch.setattr(compile, "cuda_graphs", lambda: record)
    monkeypatch.setattr(compile, "device_seconds", seconds)
    monkeypatch.setattr(torch, "compile", compiler)


class EmulatedCapture:
    """A graph, a stream and a pool for torch's own `torch.cuda.graph`; `valid` captures can end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current = self.default = SimpleNamespace(wait_stream=lambda _: None)
        self.valid = True
        self.captured_in: list[Any] = []
        # Whether the allocator serves the pool, and how many graphs keep it.
        self.allocating, self.pool_users = False, 0
        for name, stand_in in {
            "CUDAGraph": lambda: self,
            "Stream": lambda: SimpleNamespace(wait_stream=lambda _: None, device=None),
            "current_device": lambda: 0,
            "current_stream": lambda: self.current,
            "empty_cache": lambda: None,
            "graph_pool_handle": lambda: (0, 1),
            "set_stream": lambda stream: setattr(self, "current", stream),
            "stream": lambda stream: _StreamContext(self, stream),
            "synchronize": lambda: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)
        monkeypatch.setattr(torch.cuda.graph, "default_capture_stream", None)
        monkeypatch.setattr(torch._C, "_host_emptyCache", lambda: None, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", self._end_allocate, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", self._release, raising=False)

    def capture_begin(self, *_: Any, **__: Any) -> None:
        self.allocating, self.pool_users = True, self.pool_users + 1
        self.captured_in.append(self.current)

    def capture_end(self) -> None:
        if not self.valid:
            raise RuntimeError("CUDA error: operation failed due to a previous error")
        self._end_allocate()

    def replay(self) -> None: ...

    def _end_allocate(self, *_: Any) -> None:
        if not self.allocating:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.allocating = False

    def _release(self, *_: Any) -> None:
        self.pool_users -= 1


class _StreamContext:
    """As `torch.cuda.stream`: the stream stays current where nobody calls `__exit__`."""

    def __init__(self, cuda: EmulatedCapture, stream: Any) -> None:
        self._cuda, self._stream = cuda, stream

    def __enter__(self) -> None:
        self._before, self._cuda.current = self._cuda.current, self._stream

    def __exit__(self, *_: object) -> None:
        self._cuda.current = self._before
