"""Whose attention kernels a UNet's call prefers, and which are fastest on it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from .components import UNet
from .cuda_graphs import Call, Inputs
from .optimisations import Attention

TimeSeconds = Callable[[Callable[[], object]], float]

# With fewer rows a fast GPU waits for the launches, and every attention takes the same time.
_ROWS_OF_ATTENTION_TRIALS = 16
_FOR_EVERY_SHAPE = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
_BACKENDS: dict[Attention, list[SDPBackend]] = {
    "cudnn": [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, *_FOR_EVERY_SHAPE],
    "flash": [SDPBackend.FLASH_ATTENTION, *_FOR_EVERY_SHAPE],
}


def plain_call(unet: UNet, attention: Attention) -> Call:
    """The UNet itself as a call, with this attention."""

    def call(
        latents: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor
    ) -> tuple[torch.Tensor]:
        with _preferred(attention):
            return unet(latents, timesteps, encoder_hidden_states=embeds, return_dict=False)

    return call


def choose_attention(
    unet: UNet, inputs: Inputs, wanted: Attention, time_s: TimeSeconds
) -> Attention:
    """The attention wanted; for `auto`, the fastest on the real UNet.

    One that fails there is skipped: a library may reject shapes that it claimed to support.
    """
    if wanted != "auto":
        return wanted
    arguments = inputs.first(_ROWS_OF_ATTENTION_TRIALS)
    seconds: dict[Attention, float] = {
        "default": time_s(partial(plain_call(unet, "default"), *arguments))
    }
    for attention in _BACKENDS:
        with suppress(RuntimeError):
            seconds[attention] = time_s(partial(plain_call(unet, attention), *arguments))
    return min(seconds, key=seconds.__getitem__)


def _preferred(attention: Attention) -> AbstractContextManager[Any]:
    """A context in which torch prefers these attention kernels."""
    if attention == "default":
        return nullcontext()
    # The setting is process-wide: a decoder on another thread may see it, and finds a kernel too.
    return sdpa_kernel(_BACKENDS[attention], set_priority=True)
