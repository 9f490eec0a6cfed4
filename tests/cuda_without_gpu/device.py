"""A CUDA device that isn't there: tensors without values, streams that only keep an order.

Operations run on torch's meta device, so published sizes need no memory. What a real device would
have to be waited for raises `Waits`, what mixes devices `TypeError`. Streams and events fire the
callbacks of `torch.cuda._gpu_trace`, to which torch's own CUDA sanitizer listens.
"""

import ctypes
import itertools
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._utils import CallbackRegistry
from torch.cuda import _gpu_trace
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from serve.pipelines import compile, components
from serve.weights.random_values import build_model
from tests.unit.pipelines.test_cuda_graphs import record_again

aten = torch.ops.aten
LOCK = threading.RLock()
_ids = itertools.count(1)
_DATA_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


class Waits(AssertionError):
    """A real device would be waited for."""


class Races(AssertionError):
    """On a real device this may read or overwrite what another stream hasn't finished."""


def _trace(happened: CallbackRegistry, *ids: int) -> None:
    with LOCK:
        happened.fire_callbacks(*ids)


class Stream:
    def __init__(self, device: object = None) -> None:
        self.cuda_stream = next(_ids)
        self.arriving: list[torch.Tensor] = []  # What it copies to main memory.
        _trace(_gpu_trace.StreamCreationCallbacks, self.cuda_stream)

    def wait_event(self, event: "Event") -> None:
        _trace(_gpu_trace.EventWaitCallbacks, event.id, self.cuda_stream)


class Event:
    def __init__(self, blocking: bool = False) -> None:
        self.id = next(_ids)
        _trace(_gpu_trace.EventCreationCallbacks, self.id)

    def record(self) -> None:
        stream = current_stream()
        self.arriving, stream.arriving = stream.arriving, []
        _trace(_gpu_trace.EventRecordCallbacks, self.id, stream.cuda_stream)

    def synchronize(self) -> None:
        for tensor in self.arriving:
            tensor.arriving = False
        _trace(_gpu_trace.EventSynchronizationCallbacks, self.id)


_thread = threading.local()
_DEFAULT_STREAM = Stream()
_DEFAULT_STREAM.cuda_stream = 0


def current_stream() -> Stream:
    return getattr(_thread, "stream", _DEFAULT_STREAM)


@contextmanager
def kept() -> Iterator[None]:
    """What this thread makes within is never given back, as the buffers of recorded calls."""
    _thread.keeps = True
    try:
        yield
    finally:
        _thread.keeps = False


@contextmanager
def in_stream(stream: Stream) -> Iterator[None]:
    before, _thread.stream = current_stream(), stream
    try:
        yield
    finally:
        _thread.stream = before


class Memory:
    """A storage's number, never given again, and the streams that the allocator knows to use it."""

    def __init__(self) -> None:
        self.id = next(_ids)
        self.streams = {current_stream().cuda_stream}
        self.kept = getattr(_thread, "keeps", False)


_memory: "weakref.WeakKeyDictionary[torch.UntypedStorage, Memory]" = weakref.WeakKeyDictionary()


class DeviceTensor(torch.Tensor):
    """A tensor on `cuda:0`: shape, strides and dtype, no values."""

    @staticmethod
    @torch.inference_mode(False)  # Views of older tensors mustn't be inference tensors.
    def __new__(cls, meta: torch.Tensor) -> "DeviceTensor":
        layout = {"strides": meta.stride(), "storage_offset": meta.storage_offset()}
        return torch.Tensor._make_wrapper_subclass(
            cls, meta.shape, dtype=meta.dtype, device="cuda:0", **layout
        )

    def __init__(self, meta: torch.Tensor) -> None:
        self.meta = meta

    @property
    def memory(self) -> Memory:
        storage = self.meta.untyped_storage()
        with LOCK:
            if storage not in _memory:
                _memory[storage] = memory = Memory()
                free = _gpu_trace.MemoryDeallocationCallbacks
                weakref.finalize(storage, _trace, free, memory.id)
            return _memory[storage]

    def data_ptr(self) -> int:
        return self.memory.id

    def record_stream(self, stream: Stream) -> None:
        self.memory.streams.add(stream.cuda_stream)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _launch(func, args, kwargs or {})


class Device(TorchDispatchMode):
    """Where it is entered, `cuda` means the device that isn't there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _launch(func, args, kwargs or {})


def is_made_of_others(func: Any) -> bool:
    """Whether it launches nothing itself; in inference mode torch leaves it to us to take apart."""
    return func._can_decompose() and func is not aten.pin_memory.default


def _launch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, DeviceTensor)]
    hosts = [tensor for tensor in tensors if not isinstance(tensor, DeviceTensor)]
    if any(getattr(host, "arriving", False) for host in hosts):
        raise Races(f"{func}: reads main memory that a stream may still be copying to")
    device = torch.device(kwargs.get("device") or "meta")
    if not ours and device.type != "cuda":
        return _on_host(func, args, kwargs)
    if is_made_of_others(func):
        with Device():
            return func.decompose(*args, **kwargs)
    stream = current_stream().cuda_stream
    for tensor in ours:
        # Otherwise the allocator may give the memory away; but weights are never given back.
        weight = isinstance(tensor, torch.nn.Parameter)
        if not (func.is_view or weight or tensor.memory.kept or stream in tensor.memory.streams):
            raise Races(f"{func}: memory of another stream, without record_stream")
    if func is aten.copy_.default and hosts:
        return _copy(func, *args, **kwargs)
    if func is aten._to_copy.default and (hosts or device.type == "cpu"):
        return _copy(func, None, *args, **kwargs)
    if any(host.dim() for host in hosts):
        raise TypeError(f"{func}: tensors on the device and in main memory")
    # Of indices only masks have to be counted.
    indexes = func is aten.index.Tensor and all(each.dtype != torch.bool for each in tensors)
    if _DATA_DEPENDENT & set(func.tags) and not indexes:
        raise Waits(f"{func}: what it returns depends on values")
    return _on_meta(func, args, kwargs)


def _on_host(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """As ever; but without a device torch can't pin memory, so it is only marked."""
    if func is aten.pin_memory.default:
        pinned = args[0].clone()
    elif kwargs.get("pin_memory"):
        pinned = func(*args, **{**kwargs, "pin_memory": False})
    else:
        return func(*args, **kwargs)
    pinned.pinned = True
    return pinned


def _copy(func: Any, to: Any, source: Any, non_blocking: bool = False, **kwargs: Any) -> Any:
    """Between the device and main memory."""
    host = to if isinstance(source, DeviceTensor) else source
    if not (non_blocking and getattr(host, "pinned", False)):
        raise Waits(f"{func}: a copy from or to pageable memory")
    if host is to:
        current_stream().arriving.append(host)
        host.arriving = True
        return host.fill_(1)  # As good as any value, and finite.
    return to if to is not None else _on_meta(func, (source.to("meta"),), kwargs)


def _on_meta(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    by_meta = {}

    def enter(leaf: Any) -> Any:
        if not isinstance(leaf, DeviceTensor):
            return leaf
        by_meta[id(leaf.meta)] = leaf
        return leaf.meta

    def leave(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        # What an operation changes in place, it returns.
        return by_meta[id(leaf)] if id(leaf) in by_meta else DeviceTensor(leaf)

    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": "meta"}
    args, kwargs = tree_map(enter, (args, kwargs))
    return tree_map(leave, func(*args, **kwargs))


def without_gpu(patch: pytest.MonkeyPatch) -> None:
    """Let torch make tensors on a device that neither it nor the machine has."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * 2).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    if guards[1] is None:
        # torch has a guard that does nothing, but only puts it in the place of another one.
        guards[1] = guards[0]
    torch._C._ensureCUDADeviceGuardSet()
    patch.setattr(torch.cuda, "_lazy_init", lambda: None)
    patch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture(scope="module")
def cuda() -> Iterator[Device]:
    """The device in place of `torch.cuda`; each thread enters it."""
    if torch.cuda.is_available():
        pytest.skip("for machines without a GPU; on others tests/gpu shows more")
    replaced = {
        "Stream": Stream,
        "Event": Event,
        "stream": in_stream,
        "current_stream": current_stream,
        "empty_cache": lambda: None,
        "mem_get_info": lambda device: (2**34, 2**34),
        "memory_allocated": lambda device: 0,
        "memory_reserved": lambda device: 0,
        "memory_snapshot": list,
    }
    load = components._load

    def load_without_values(component: Any, folder: Path, *where: Any) -> Any:
        if not component.has_weights:
            return load(component, folder, *where)
        with torch.device("meta"):
            model = build_model(component, folder / component.folder)
        return model.half().eval()._apply(DeviceTensor)

    with pytest.MonkeyPatch.context() as patch:
        without_gpu(patch)
        for name, value in replaced.items():
            patch.setattr(torch.cuda, name, value)
        for registry in vars(_gpu_trace).values():
            if isinstance(registry, CallbackRegistry):
                patch.setattr(registry, "callback_list", [])
        patch.setattr(components, "_load", load_without_values)
        # A graph's kernels, launched again one by one.
        patch.setattr(compile, "cuda_graphs", lambda: record_again)
        patch.setattr(compile, "device_seconds", lambda call: 1.0)
        # `Module.to` puts new tensors where it would swap the values that these lack.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        yield Device()
        torch.__future__.set_overwrite_module_params_on_conversion(False)
