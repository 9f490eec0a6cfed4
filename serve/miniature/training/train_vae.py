"""Stages 4 and 5: the KL autoencoder, a regression on the fixed latents, then the tiny one."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from . import architecture
from .fitting import Budget, World, fit
from .train_latents import LatentCoder, picture_loss, to_float, with_noise

_GOALS = 4000
"""Pictures of the KL decoder that the tiny one learns from."""
_LOG_VARIANCE = -6.0
"""The encoder's posterior is as good as certain; Stable Diffusion's is, too."""


def train_vae(
    world: World, pixels: Tensor, coder: LatentCoder, budget: Budget, folder: Path
) -> AutoencoderKL:
    """Train encoder and decoder in unit-variance latents (`fold_scaling` comes after)."""
    torch.manual_seed(2)
    vae = architecture.vae()
    coder.to(world.device).eval().requires_grad_(False)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pixels), (budget.batch,), generator=generator)
        truth = to_float(pixels[rows]).to(world.device)
        # The encoder is the easier half and nobody waits for it: a quarter of the rows.
        some = truth[: max(1, budget.batch // 4)]
        with world.autocast():
            latents = coder.encode(truth).float()
            decoded = vae.decode(with_noise(latents, generator, most=0.2)).sample
            moments = vae.quant_conv(vae.encoder(some)).float()
        mean, log_variance = moments.chunk(2, dim=1)
        return (
            picture_loss(decoded.float(), truth)
            + functional.mse_loss(mean, latents[: len(some)])
            + 0.01 * functional.mse_loss(log_variance, torch.full_like(log_variance, _LOG_VARIANCE))
        )

    fit(world, "vae", nn.ModuleDict({"vae": vae}), loss_of, budget, folder)
    return vae


def fold_scaling(vae: AutoencoderKL) -> AutoencoderKL:
    """Fold the scaling factor into the outermost 1x1 convolutions, in place.

    Trained in unit-variance latents, the autoencoder then speaks latents divided by the factor,
    which is what a Stable Diffusion pipeline hands to it.
    """
    factor = architecture.SCALING_FACTOR
    with torch.no_grad():
        half = vae.quant_conv.out_channels // 2
        vae.quant_conv.weight[:half] /= factor
        vae.quant_conv.bias[:half] /= factor
        vae.quant_conv.bias[half:] -= 2 * torch.tensor(factor).log()
        vae.post_quant_conv.weight *= factor
    return vae


def train_vae_tiny(
    world: World,
    pixels: Tensor,
    coder: LatentCoder,
    vae: AutoencoderKL,
    budget: Budget,
    folder: Path,
) -> AutoencoderTiny:
    """Train the tiny autoencoder against what `vae` (not folded) makes of the same latents.

    The KL decoder is by far the slower of the two, so its pictures are made once, beforehand.
    """
    torch.manual_seed(3)
    tiny = architecture.vae_tiny().to(memory_format=torch.channels_last)
    for frozen in (coder, vae):
        frozen.to(world.device).eval().requires_grad_(False)
    drawing = world.generator(11)
    mine = torch.randint(len(pixels), (_GOALS // world.size,), generator=drawing)
    latents, noisy, goals = [], [], []
    for rows in tqdm(mine.split(32), desc="goals", disable=world.rank > 0, mininterval=5):
        with world.autocast():
            clean = coder.encode(to_float(pixels[rows]).to(world.device)).float()
            latents.append(clean)
            noisy.append(with_noise(clean, drawing, most=0.2))
            goals.append(vae.decode(noisy[-1]).sample.half())
    all_latents, all_noisy, all_goals = torch.cat(latents), torch.cat(noisy), torch.cat(goals)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(mine), (budget.batch,), generator=generator)
        some = rows[: max(1, budget.batch // 4)]
        with world.autocast():
            decoded = tiny.decode(all_noisy[rows]).sample
            encoded = tiny.encode(to_float(pixels[mine[some]]).to(world.device)).latents
        goal = all_goals[rows].float()
        error = functional.mse_loss(encoded.float(), all_latents[some])
        return picture_loss(decoded.float(), goal) + error

    fit(world, "vae_tiny", nn.ModuleDict({"vae": tiny}), loss_of, budget, folder)
    return tiny
