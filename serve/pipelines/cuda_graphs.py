"""UNet calls recorded as CUDA graphs, one per number of rows, and replayed with padding.

A replay launches hundreds of kernels at once, reads its inputs from fixed buffers and writes to a
fixed output. A row is one sample of the UNet: with guidance an image has two. Rows are independent,
so a call can be split into several replays, and the last one padded with whatever the buffers hold.
torch.compile's own CUDA graphs are bound to a thread, and replicas load on another than they draw.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch

from .components import UNet

UNetCall = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Latents `(R, 4, H/8, W/8)`, timesteps `(R,)` and embeddings `(R, 77, D)` to predicted noise."""


@dataclass(frozen=True)
class Recording:
    """A recorded call: `replay` runs it on the buffers' present contents and fills `output`."""

    replay: Callable[[], object]
    output: torch.Tensor


Record = Callable[[Callable[[], torch.Tensor]], Recording]


@dataclass(frozen=True)
class Inputs:
    """Input buffers at fixed addresses, with as many rows as the largest recording."""

    latents: torch.Tensor
    timesteps: torch.Tensor
    embeds: torch.Tensor

    @classmethod
    def random(cls, unet: UNet, rows: int, size: tuple[int, int], tokens: int) -> "Inputs":
        """Buffers for a UNet's calls, filled with random values: zeros would distort timings."""
        device, dtype, config = unet.device, unet.dtype, unet.config
        return cls(
            latents=torch.randn(rows, config.in_channels, *size, device=device, dtype=dtype),
            timesteps=torch.full((rows,), 500.0, device=device),
            embeds=torch.randn(
                rows, tokens, config.cross_attention_dim, device=device, dtype=dtype
            ),
        )

    def first(self, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The arguments of a call with this many rows."""
        return self.latents[:rows], self.timesteps[:rows], self.embeds[:rows]

    def fill(self, latents: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> None:
        """Copy a call's arguments into the first rows; the others keep their values."""
        arguments = latents, timesteps, embeds
        for buffer, argument in zip(self.first(len(latents)), arguments, strict=True):
            buffer.copy_(argument)


class RecordedUNet:
    """A UNet call made of recordings, for one size of latents and any number of rows."""

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

    def __call__(
        self, latents: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor
    ) -> torch.Tensor:
        """Predicted noise, one row for each given."""
        rows = len(latents)
        if rows not in self._covers:
            self._covers[rows] = cheapest_cover(rows, self._seconds)
        noise, start = [], 0
        for size in self._covers[rows]:
            part = slice(start, min(start + size, rows))
            self._inputs.fill(latents[part], timesteps[part], embeds[part])
            recording = self._recordings[size]
            recording.replay()
            # Cloned, since the next replay overwrites it.
            noise.append(recording.output[: part.stop - start].clone())
            start = part.stop
        return noise[0] if len(noise) == 1 else torch.cat(noise)


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


def record_unet(
    call: UNetCall,
    inputs: Inputs,
    sizes: tuple[int, ...],
    record: Record,
    time_s: Callable[[Callable[[], object]], float],
) -> RecordedUNet:
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
    return RecordedUNet(inputs, recordings, seconds)


def cuda_graphs() -> Record:
    """A recorder of CUDA graphs that share one memory pool, since they never run concurrently."""
    pool = torch.cuda.graph_pool_handle()

    def record(call: Callable[[], torch.Tensor]) -> Recording:
        # Libraries allocate and choose kernels in their first calls, which can't be recorded.
        warm_up = torch.cuda.Stream()
        warm_up.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(warm_up):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(warm_up)
        graph = torch.cuda.CUDAGraph()
        before = torch.cuda.current_stream()
        try:
            # Another thread may use the device meanwhile; only this thread's calls must be
            # recordable.
            with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
                output = call()
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
        return Recording(graph.replay, output)

    return record
