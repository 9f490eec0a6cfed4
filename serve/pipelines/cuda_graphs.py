"""Calls recorded as CUDA graphs, one per number of rows, and replayed with padding.

A replay launches hundreds of kernels at once, reads its inputs from fixed buffers and writes to
fixed outputs. A row is one sample of the model: of a UNet, an image has two with guidance. Rows are
independent, so a call can be split into several replays, and the last one padded with whatever the
buffers hold. torch.compile's own CUDA graphs are bound to a thread, and replicas load on another
than they draw.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch

Call = Callable[..., tuple[torch.Tensor, ...]]
"""Tensors with a row for each sample to tensors with as many rows."""


@dataclass(frozen=True)
class Recording:
    """A recorded call: `replay` runs it on the buffers' present contents and fills `outputs`."""

    replay: Callable[[], object]
    outputs: tuple[torch.Tensor, ...]


Record = Callable[[Callable[[], tuple[torch.Tensor, ...]]], Recording]


class Inputs:
    """Input buffers at fixed addresses, with as many rows as the largest recording."""

    def __init__(self, *buffers: torch.Tensor) -> None:
        self._buffers = buffers

    def first(self, rows: int) -> tuple[torch.Tensor, ...]:
        """The arguments of a call with this many rows."""
        return tuple(buffer[:rows] for buffer in self._buffers)

    def fill(self, *arguments: torch.Tensor) -> None:
        """Copy a call's arguments into the first rows; the others keep their values."""
        for buffer, argument in zip(self.first(len(arguments[0])), arguments, strict=True):
            buffer.copy_(argument)


class RecordedCall:
    """A call made of recordings, for one size of latents and any number of rows.

    For one thread and one stream, in which the buffers are filled and the outputs read.
    """

    def __init__(
        self, inputs: Inputs, recordings: Mapping[int, Recording], seconds: Mapping[int, float]
    ) -> None:
        self._inputs = inputs
        self._recordings = recordings
        self._seconds = seconds
        self._covers: dict[int, tuple[int, ...]] = {}

    @property
    def sizes(self) -> list[int]:
        """The recorded numbers of rows."""
        return sorted(self._recordings)

    def __call__(self, *arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The call's results, one row for each given."""
        rows = len(arguments[0])
        if rows not in self._covers:
            self._covers[rows] = cheapest_cover(rows, self._seconds)
        results, start = [], 0
        for size in self._covers[rows]:
            part = slice(start, min(start + size, rows))
            self._inputs.fill(*(argument[part] for argument in arguments))
            recording = self._recordings[size]
            recording.replay()
            # Cloned, since the next replay overwrites it.
            kept = part.stop - start
            results.append(tuple(output[:kept].clone() for output in recording.outputs))
            start = part.stop
        if len(results) == 1:
            return results[0]
        return tuple(map(torch.cat, zip(*results, strict=True)))


def cheapest_cover(rows: int, seconds: Mapping[int, float]) -> tuple[int, ...]:
    """The recorded sizes, largest first, that hold at least `rows` rows in the least time.

    Only the last one is padded: if another could be spared, the rest would be cheaper.

    Args:
        rows: of the call.
        seconds: of a replay, by recorded size.
    """
    # Dynamic programming over the number of rows: a cheapest cover of `count` rows is some last
    # recording, and a cheapest cover of the rows that it leaves.
    least_s, last = [0.0], [0]
    for count in range(1, rows + 1):
        totals = {size: least_s[max(0, count - size)] + seconds[size] for size in seconds}
        last.append(min(totals, key=totals.__getitem__))
        least_s.append(totals[last[count]])
    cover = []
    while rows > 0:
        cover.append(last[rows])
        rows -= last[rows]
    return tuple(sorted(cover, reverse=True))


def record_sizes(
    call: Call,
    inputs: Inputs,
    sizes: Sequence[int],
    record: Record,
    time_s: Callable[[Callable[[], object]], float],
) -> RecordedCall:
    """Record a call with each number of rows that fits into memory.

    Args:
        call: what to record.
        inputs: buffers for the largest size.
        sizes: numbers of rows.
        record: records one call.
        time_s: times a function on the device.

    Raises:
        torch.OutOfMemoryError: not even the smallest fits.
        RuntimeError: the call can't be recorded.
    """
    recordings: dict[int, Recording] = {}
    # The largest first: the smaller ones then fit into the memory that it reserved.
    for rows in sorted(sizes, reverse=True):
        try:
            recordings[rows] = record(partial(call, *inputs.first(rows)))
        except torch.OutOfMemoryError:
            if rows == min(sizes) and not recordings:
                raise
    seconds = {rows: time_s(recording.replay) for rows, recording in recordings.items()}
    return RecordedCall(inputs, recordings, seconds)


def cuda_graphs() -> Record:
    """A recorder of CUDA graphs that share their memory, since they never run concurrently.

    Those of another recorder may run at the same time: its memory pool is another, and so is its
    stream, to which torch ties the workspace that cuBLAS's kernels write to in a replay.
    """
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()

    def record(call: Callable[[], tuple[torch.Tensor, ...]]) -> Recording:
        # Libraries allocate and choose kernels in their first calls, which can't be recorded.
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        before = torch.cuda.current_stream()
        try:
            # Another thread may use the device meanwhile; only this thread's calls must be
            # recordable.
            with torch.cuda.graph(graph, pool, stream, capture_error_mode="thread_local"):
                outputs = call()
        except BaseException:
            # What can't be recorded makes `capture_end` raise, too, before torch takes back what
            # `capture_begin` did: the allocator would never free the pool again, nor whatever two
            # streams have used. Where it did take it back, the first of these raises.
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(torch.cuda.current_device(), pool)
                torch._C._cuda_releasePool(torch.cuda.current_device(), pool)
            raise
        finally:
            torch.cuda.set_stream(before)  # Likewise.
        return Recording(graph.replay, outputs)

    return record
