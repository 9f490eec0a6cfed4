"""A UNet call recorded per number of rows and replayed: CUDA graphs, with the padding hidden.

A replay launches hundreds of kernels at once, reads its inputs from fixed buffers and writes into
a fixed output. A row is one sample of the UNet: with guidance an image has two. Rows don't touch
each other, so a call may be split and its last part padded with whatever the buffers hold. The
compiler's own graphs belong to one thread, and replicas load on another than they draw on.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

UNetCall = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Latents `(R, 4, H/8, W/8)`, timesteps `(R,)` and embeddings `(R, 77, D)` to predicted noise."""


@dataclass(frozen=True)
class Recording:
    """A recorded call: `replay` runs it on what its inputs hold now, and fills `output`."""

    replay: Callable[[], object]
    output: torch.Tensor


Record = Callable[[Callable[[], torch.Tensor]], Recording]


@dataclass(frozen=True)
class Inputs:
    """Buffers at fixed addresses, as many rows as the largest recording."""

    latents: torch.Tensor
    timesteps: torch.Tensor
    embeds: torch.Tensor

    @classmethod
    def like(cls, unet: Any, rows: int, size: tuple[int, int], tokens: int) -> "Inputs":
        """Buffers for a UNet's calls, filled with random values: zeros would be timed wrongly."""
        where = {"device": unet.device, "dtype": unet.dtype}
        return cls(
            latents=torch.randn(rows, unet.config.in_channels, *size, **where),
            timesteps=torch.full((rows,), 500.0, device=unet.device),
            embeds=torch.randn(rows, tokens, unet.config.cross_attention_dim, **where),
        )

    def first(self, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The arguments of a call with this many rows."""
        return self.latents[:rows], self.timesteps[:rows], self.embeds[:rows]

    def fill(self, latents: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> None:
        """Put a call's arguments into the first rows; those behind keep what they have."""
        for buffer, given in zip(
            self.first(len(latents)), (latents, timesteps, embeds), strict=True
        ):
            buffer.copy_(given)


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
        """The numbers of rows that were recorded."""
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
            # The next replay writes into the same place.
            noise.append(recording.output[: part.stop - start].clone())
            start = part.stop
        return noise[0] if len(noise) == 1 else torch.cat(noise)


def cheapest_cover(rows: int, seconds: Mapping[int, float]) -> tuple[int, ...]:
    """The sizes, largest first, that take the least time and hold at least so many rows.

    Only the last one holds more than is needed, for without it, were it superfluous, the rest
    would take less time. `seconds` is what a replay of each size takes.
    """
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for held in range(1, rows + 1):
        best.append(
            min(
                (best[max(0, held - size)][0] + took, (*best[max(0, held - size)][1], size))
                for size, took in seconds.items()
            )
        )
    return tuple(sorted(best[rows][1], reverse=True))


def record_unet(
    call: UNetCall,
    inputs: Inputs,
    sizes: tuple[int, ...],
    record: Record,
    time_s: Callable[[Callable[[], object]], float],
) -> RecordedUNet | None:
    """Record a call with each number of rows, as far as the memory goes; None without any.

    Args:
        call: what is recorded.
        inputs: for the largest size.
        sizes: numbers of rows.
        record: records one call.
        time_s: how long a function takes on the device.
    """
    recordings: dict[int, Recording] = {}
    # The largest first: what the others need then fits into the memory that it took.
    for rows in sorted(sizes, reverse=True):
        try:
            recordings[rows] = record(partial(call, *inputs.first(rows)))
        except torch.OutOfMemoryError:
            continue
    if not recordings:
        return None
    return RecordedUNet(
        inputs, recordings, {rows: time_s(one.replay) for rows, one in recordings.items()}
    )


def cuda_graphs() -> Record:
    """A recorder of CUDA graphs that share one pool of memory, since they never run at once."""
    pool = torch.cuda.graph_pool_handle()

    def record(call: Callable[[], torch.Tensor]) -> Recording:
        # Libraries allocate and choose kernels in their first calls, which can't be recorded.
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Another thread may use the device meanwhile; only this one's calls must be recordable.
        with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
            output = call()
        return Recording(graph.replay, output)

    return record
