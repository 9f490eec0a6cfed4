"""Makes a replica's models fast before the first request, and tells what came of it.

On CUDA: channels_last, the fastest attention, torch.compile, and CUDA graphs for calls of 1, 2, 4,
8 and 16 images of the family's default size with guidance; any other number of images of that size
is split and padded into those. Other sizes run eagerly: each would take minutes of compiling and
memory of its own. On a CPU: channels_last, and torch.compile where it is asked for.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import torch
from torch._dynamo.exc import TorchDynamoException
from torch.nn.attention import SDPBackend, sdpa_kernel

from .cuda_graphs import Inputs, Record, UNetCall, cuda_graphs, record_unet
from .optimisations import Attention, Optimisations

T = TypeVar("T")
TimeSeconds = Callable[[Callable[[], object]], float]

# With guidance an image has two rows.
ROWS_A_CALL = (2, 4, 8, 16, 32)
_ROWS_OF_ONE_IMAGE = (2,)
_TRIED_WITH_ROWS = 16
_FOR_EVERY_SHAPE = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_BACKENDS: dict[Attention, list[SDPBackend]] = {
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, *_FOR_EVERY_SHAPE],
    "flash": [SDPBackend.FLASH_ATTENTION, *_FOR_EVERY_SHAPE],
}


@dataclass
class Readiness:
    """What was switched on, what was left off and why, and the seconds that each part took."""

    switched_on: list[str] = field(default_factory=list)
    left_off: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, part: str, work: Callable[[], T]) -> T:
        """Do a part of getting ready, and note how long it took."""
        started_s = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds[part] = time.perf_counter() - started_s


def use_channels_last(models: Iterable[Any]) -> None:
    """Lay models' weights out as fast convolutions want them; the modules stay the same objects."""
    for one in models:
        # CPU seconds against the default: steps 0.94 to 1.01, KL decode 0.93 to 1.02, tiny 0.91.
        one.to(memory_format=torch.channels_last)


@torch.inference_mode()
def prepare_unet(
    name: str,
    unet: Any,
    size: tuple[int, int],
    tokens: int,
    optimisations: Optimisations,
    readiness: Readiness,
) -> UNetCall:
    """A UNet's fastest call, tried and warm.

    Args:
        name: what the report calls it.
        unet: on its device, its weights laid out as they stay.
        size: height and width of the latents of the family's default size.
        tokens: of the text encoder.
        optimisations: what may be tried.
        readiness: is told what came of it.
    """
    cuda = unet.device.type == "cuda"
    compiling = cuda if optimisations.compile is None else optimisations.compile
    if not cuda and not compiling:
        return plain_call(unet, "default")
    inputs = Inputs.like(unet, max(ROWS_A_CALL), size, tokens)
    attention: Attention = "default"
    if cuda:
        wanted = _wanted_attention(optimisations)
        attention = readiness.timed(
            f"{name}: attention", partial(choose_attention, unet, inputs, wanted, device_seconds)
        )
        readiness.switched_on.append(f"{name}: attention {attention}")
    eager = fast = plain_call(unet, attention)
    if compiling:
        try:
            fast = readiness.timed(
                f"{name}: compile", partial(compile_unet, unet, eager, attention, inputs)
            )
            readiness.switched_on.append(f"{name}: compile")
        except TorchDynamoException as fault:
            # No compiler on this machine, say: slower, but the same pictures.
            readiness.left_off[f"{name}: compile"] = str(fault).strip().splitlines()[0]
    if cuda and optimisations.cuda_graphs:
        sizes = _ROWS_OF_ONE_IMAGE if optimisations.deterministic else ROWS_A_CALL
        fast = record_or_say_why(
            f"{name}: CUDA graphs", fast, inputs, sizes, cuda_graphs(), device_seconds, readiness
        )
    return fast if fast is eager else for_size(size, fast, eager)


def _wanted_attention(optimisations: Optimisations) -> Attention:
    """Two processes that time kernels may choose different ones."""
    if optimisations.deterministic and optimisations.attention == "auto":
        return "default"
    return optimisations.attention


def plain_call(unet: Any, attention: Attention) -> UNetCall:
    """The UNet itself as a call."""

    def call(latents: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        with preferring(attention):
            noise: torch.Tensor = unet(
                latents, timesteps, encoder_hidden_states=embeds, return_dict=False
            )[0]
        return noise

    return call


def for_size(size: tuple[int, int], fast: UNetCall, others: UNetCall) -> UNetCall:
    """One call for latents of this height and width, another for all others."""

    def call(latents: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        chosen = fast if latents.shape[2:] == size else others
        return chosen(latents, timesteps, embeds)

    return call


def preferring(attention: Attention) -> AbstractContextManager[Any]:
    """Where torch chooses among its attention kernels, these come first."""
    if attention == "default":
        return nullcontext()
    # The choice is the process's: another thread's decoder may see it, and finds a kernel, too.
    return sdpa_kernel(_BACKENDS[attention], set_priority=True)


def choose_attention(
    unet: Any, inputs: Inputs, wanted: Attention, time_s: TimeSeconds
) -> Attention:
    """The attention that was asked for; where that is `auto`, the fastest on the real UNet.

    One that fails there, as a library may for shapes that it claimed to know, is passed over.
    """
    if wanted != "auto":
        return wanted
    # With fewer rows a fast GPU waits for the launches, and all look alike.
    arguments = inputs.first(_TRIED_WITH_ROWS)
    seconds: dict[Attention, float] = {
        "default": time_s(partial(plain_call(unet, "default"), *arguments))
    }
    for one in _BACKENDS:
        with suppress(RuntimeError):
            seconds[one] = time_s(partial(plain_call(unet, one), *arguments))
    return min(seconds, key=lambda one: seconds[one])


def compile_unet(unet: Any, eager: UNetCall, attention: Attention, inputs: Inputs) -> UNetCall:
    """A compiled call for any number of rows, warm: the rows are a variable of the code.

    Raises:
        TorchDynamoException: it can't be compiled here.
    """
    compiled = plain_call(torch.compile(unet), attention)
    for rows in ROWS_A_CALL:
        arguments = inputs.first(rows)
        for one in arguments:
            torch._dynamo.maybe_mark_dynamic(one, 0)
        compiled(*arguments)

    def call(latents: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        # A single row would be compiled anew, in the middle of a request.
        chosen = compiled if len(latents) > 1 else eager
        return chosen(latents, timesteps, embeds)

    return call


def record_or_say_why(
    part: str,
    call: UNetCall,
    inputs: Inputs,
    sizes: tuple[int, ...],
    record: Record,
    time_s: TimeSeconds,
    readiness: Readiness,
) -> UNetCall:
    """The call recorded, as far as the memory goes, or as it was; `readiness` is told."""
    recorded = readiness.timed(part, partial(record_unet, call, inputs, sizes, record, time_s))
    if recorded is None:
        readiness.left_off[part] = "no memory for a single one"
        return call
    readiness.switched_on.append(f"{part} of {', '.join(map(str, recorded.sizes))} rows")
    return recorded


def device_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of one call on a CUDA device, after a first one that doesn't count."""
    call()
    torch.cuda.synchronize()
    started_s = time.perf_counter()
    for _ in range(repeats):
        call()
    torch.cuda.synchronize()
    return (time.perf_counter() - started_s) / repeats
