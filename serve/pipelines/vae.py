"""Latents to pixels through a VAE, for finished images and previews; an edit's pixels to latents.

When each is decoded or encoded, and on which thread, is up to `engine.decoding`.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from numpy.typing import NDArray

from ..errors import NotFinite
from .components import Vae
from .cuda_graphs import Call
from .devices import SideStream, free_memory_bytes, recorded_bytes, to_device
from .edits import EncodedSource, encode
from .trajectories import Trajectory

_MOST_AT_ONCE = 8
MOST_AT_ONCE_ON_CUDA: dict[type, int] = {AutoencoderKL: 2, AutoencoderTiny: _MOST_AT_ONCE}
"""One image keeps a GPU busy with the KL decoder (2514 GFLOP against 141), so that more only delay
the first; a second spares every other wait for the device."""
_CPU_LATENTS_AT_ONCE = 4 * 12 * 12
"""Four of the miniature's pictures take 0.88 of the time of one by one; eight gain no more."""
_IMAGE_BYTES: dict[type, float] = {AutoencoderKL: 0.375 * 2**30, AutoencoderTiny: 0.094 * 2**30}
"""Activations of one 512x512 image in fp16, counted; they grow with the area."""


class Decoder:
    """Decodes and encodes with the VAE it is given, on one thread. Make it when all is recorded.

    `calls` has what `compile.prepare_decoder` made of VAEs; others are called as they are.
    """

    def __init__(self, device: torch.device, calls: Mapping[Vae, Call] | None = None) -> None:
        self._device = device
        self._calls = calls or {}
        self._recorded_bytes = recorded_bytes() if device.type == "cuda" else 0
        self._side = SideStream(device)

    def slice_size(self, vae: Vae, trajectory: Trajectory) -> int:
        """How many images like this one to decode at once, 1 to 8."""
        height, width = trajectory.latents.shape[2:]
        if self._device.type != "cuda":
            fitting = _CPU_LATENTS_AT_ONCE // (height * width)
            return max(1, min(_MOST_AT_ONCE, fitting))
        image_bytes = _IMAGE_BYTES[type(vae)] * (height * width) / 64**2
        free = free_memory_bytes(self._device) - self._recorded_bytes
        # Half of what is free: a step may begin meanwhile.
        return max(1, min(MOST_AT_ONCE_ON_CUDA[type(vae)], int(free / 2 / image_bytes)))

    def decode(self, vae: Vae, trajectories: list[Trajectory]) -> NDArray[np.uint8]:
        """Pixels of finished trajectories of one size: `(B, H, W, 3)` uint8.

        Raises:
            NotFinite: latents or pixels of one of the images are infinite or NaN.
        """
        latents = [trajectory.latents for trajectory in trajectories]
        with self._side.reading(latents, [trajectory.ready for trajectory in trajectories]):
            drawn, finite = self._side.fetch(*self._pixels(vae, torch.cat(latents)))
        if not finite.all():
            count = len(trajectories)
            which = "the image" if count == 1 else f"one of {count} images decoded together"
            raise NotFinite(f"{which} is not a number: its latents went to infinity on the way")
        pixels: NDArray[np.uint8] = drawn.numpy()
        return pixels

    def encode(self, vae: Vae, pixels: torch.Tensor) -> EncodedSource:
        """Encode a picture, `(1, H, W, 3)` uint8 in main memory; returns when it is done."""
        with self._side.reading([], []):
            mean, deviation = encode(vae, to_device(pixels, self._device))
            return EncodedSource(mean, deviation, vae.config.scaling_factor, self._side.finish())

    def preview(self, vae: Vae, trajectory: Trajectory) -> NDArray[np.uint8]:
        """The finished image as last predicted, `(H, W, 3)` uint8; noise before the first step."""
        last = trajectory.prediction
        if last is None:
            noise: NDArray[np.uint8] = self.decode(vae, [trajectory])[0]
            return noise
        with self._side.reading([last.sample, last.noise], [last.ready]):
            (drawn,) = self._side.fetch(self._pixels(vae, trajectory.estimate(last))[0])
        pixels: NDArray[np.uint8] = drawn[0].numpy()
        return pixels

    def _pixels(self, vae: Vae, latents: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._calls.get(vae, partial(pixels, vae))(latents)


def pixels(vae: Vae, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels `(B, H, W, 3)` uint8, and where latents and pixels are finite, `(B,)` bool."""
    decoded = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
    # By image: what pads a recorded call may be anything.
    finite = latents.isfinite().all((1, 2, 3)) & decoded.isfinite().all((1, 2, 3))
    unit = (decoded * 0.5 + 0.5).clamp(0, 1).float()
    return (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous(), finite
