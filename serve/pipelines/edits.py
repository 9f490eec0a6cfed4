"""Edits: images that start from a picture, and keep what a mask leaves out.

An edit is the picture that diffusers' `StableDiffusionImg2ImgPipeline` makes with the same
arguments, and with a mask `StableDiffusionInpaintPipeline` with a UNet of four channels; called for
one image with one generator, so that an image doesn't depend on those beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray
from torch.nn import functional

from ..generation import Generation, Source
from .components import Scheduler, Vae
from .devices import to_device


@dataclass(frozen=True, slots=True)
class EncodedSource:
    """A source's latents, `(1, 4, H/8, W/8)`, as its VAE has them; on CUDA valid after `ready`.

    `AutoencoderKL` encodes a picture as a distribution; the other has no `deviation`.
    """

    mean: torch.Tensor
    deviation: torch.Tensor | None
    scaling_factor: float
    ready: torch.cuda.Event | None = None

    @property
    def tensors(self) -> list[torch.Tensor]:
        """What lies on the device."""
        return [self.mean] if self.deviation is None else [self.mean, self.deviation]

    def draw(self, generator: torch.Generator) -> torch.Tensor:
        """Latents of unit variance, with noise of an image's own where the VAE has any."""
        if self.deviation is None:
            return self.scaling_factor * self.mean
        return self.scaling_factor * (self.mean + self.deviation * _noise(self.mean, generator))


@dataclass(frozen=True, slots=True)
class Kept:
    """What a masked edit keeps of its source.

    `latents` and `noise` are `(1, 4, H/8, W/8)`, `mask` is `(1, 1, H/8, W/8)` and 1 where the
    picture may change; `shares` has the signal's and the noise's share before each step.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    mask: torch.Tensor
    shares: Sequence[tuple[float, float]]

    def put_back(self, drawn: torch.Tensor, steps_done: int) -> torch.Tensor:
        """Latents after a step with what is kept in place, as noisy as the next step expects."""
        kept = self.latents
        if steps_done < len(self.shares):
            signal, noise = self.shares[steps_done]
            kept = signal * kept + noise * self.noise
        return (1 - self.mask) * kept + self.mask * drawn


def encode(vae: Vae, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Mean and deviation of the latents of pixels `(1, H, W, 3)`, uint8, on the VAE's device."""
    unit = pixels.permute(0, 3, 1, 2).float() / 255
    (encoded,) = vae.encode((2 * unit - 1).to(vae.dtype), return_dict=False)
    if isinstance(vae, AutoencoderKL):
        return encoded.mean, encoded.std
    return encoded, None


def start(
    generation: Generation,
    encoded: EncodedSource,
    generator: torch.Generator,
    scheduler: Scheduler,
) -> tuple[torch.Tensor, list[torch.Tensor], Kept | None]:
    """The latents and timesteps that an edit starts with, and what it keeps.

    The scheduler's tables have to be on the CPU still.
    """
    source = generation.source
    assert source is not None
    timesteps = list(scheduler.timesteps)[generation.first_step :]
    needed = timesteps if source.mask is not None else timesteps[:1]
    shares = _shares(scheduler, needed, generation.first_step, encoded.mean.dtype)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(generation.first_step)
    latents = encoded.draw(generator)
    noise = _noise(encoded.mean, generator)
    signal_share, noise_share = shares[0]
    noisy = signal_share * latents + noise_share * noise
    if source.mask is None:
        return noisy, timesteps, None
    if encoded.deviation is not None:
        # The inpainting pipeline encodes the masked picture, too, for UNets of nine channels.
        _noise(encoded.mean, generator)
    if source.strength == 1:
        noisy = noise * scheduler.init_noise_sigma
    kept = Kept(latents, noise, _latent_mask(source, generation, latents), shares)
    return noisy, timesteps, kept


def paste(generation: Generation, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture, `(H, W, 3)` uint8, with the source's own pixels where the mask keeps them."""
    source = generation.source
    if source is None or source.mask is None:
        return pixels
    changed = _mask(source, generation)[..., None] > 127
    return np.where(changed, pixels, _pixels(source, generation))


def source_pixels(generation: Generation) -> torch.Tensor:
    """The source, `(1, H, W, 3)` uint8, in main memory."""
    assert generation.source is not None
    return torch.from_numpy(_pixels(generation.source, generation).copy())[None]


def _pixels(source: Source, generation: Generation) -> NDArray[np.uint8]:
    shape = generation.height_px, generation.width_px, 3
    return np.frombuffer(source.pixels, np.uint8).reshape(shape)


def _mask(source: Source, generation: Generation) -> NDArray[np.uint8]:
    assert source.mask is not None
    shape = generation.height_px, generation.width_px
    return np.frombuffer(source.mask, np.uint8).reshape(shape)


def _latent_mask(source: Source, generation: Generation, latents: torch.Tensor) -> torch.Tensor:
    mask = torch.from_numpy((_mask(source, generation) > 127).astype(np.float32))[None, None]
    small = functional.interpolate(mask, size=latents.shape[2:])
    return to_device(small.to(latents.dtype), latents.device)


def _noise(like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return to_device(torch.randn(like.shape, generator=generator, dtype=like.dtype), like.device)


def _shares(
    scheduler: Scheduler, timesteps: Sequence[torch.Tensor], first: int, dtype: torch.dtype
) -> list[tuple[float, float]]:
    """Signal's and noise's share in the latents before each of these steps.

    Asked of `add_noise` with numbers on the CPU: with latents of a GPU it would move the
    scheduler's tables there, where every lookup waits for the device.
    """
    one, zero = torch.ones(1, dtype=dtype), torch.zeros(1, dtype=dtype)
    shares = []
    for index, timestep in enumerate(timesteps, first):
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(index)
        at = timestep.reshape(1)
        signal, noise = scheduler.add_noise(one, zero, at), scheduler.add_noise(zero, one, at)
        shares.append((float(signal), float(noise)))
    return shares
