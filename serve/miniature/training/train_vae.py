"""Stages 4 and 5: the KL autoencoder, a regression on the fixed latents, then the tiny one."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from .architecture import new_model
from .fitting import Budget, World, fit
from .train_latents import LatentCoder, picture_loss, to_float, with_noise

_LOG_VARIANCE = -6.0
"""Makes the encoder's posterior nearly deterministic, as Stable Diffusion's is."""


def train_vae(
    world: World, pixels: Tensor, coder: LatentCoder, budget: Budget, folder: Path
) -> AutoencoderKL:
    """Train encoder and decoder in unit-variance latents, before `fold_scaling`."""
    torch.manual_seed(2)
    vae = new_model("vae")
    coder.to(world.device).eval().requires_grad_(False)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pixels), (budget.batch,), generator=generator)
        truth = to_float(pixels[rows]).to(world.device)
        # The encoder learns more easily, and serving doesn't use it: a quarter of the rows.
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

    Its latents then are unit-variance latents divided by the factor, as a Stable Diffusion pipeline
    expects.
    """
    factor = vae.config.scaling_factor
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
    goals: int,
    budget: Budget,
    folder: Path,
) -> AutoencoderTiny:
    """Train the tiny autoencoder against `goals` pictures that `vae` (not folded) decodes.

    The KL decoder is by far the slower of the two, so it decodes them once, beforehand.
    """
    torch.manual_seed(3)
    tiny = new_model("vae_tiny").to(memory_format=torch.channels_last)
    for frozen in (coder, vae):
        frozen.to(world.device).eval().requires_grad_(False)
    drawing = world.generator(11)
    mine = torch.randint(len(pixels), (goals // world.size,), generator=drawing)
    latents, noisy, decoded = [], [], []
    for rows in tqdm(mine.split(32), desc="goals", disable=world.rank > 0, mininterval=5):
        with world.autocast():
            clean = coder.encode(to_float(pixels[rows]).to(world.device)).float()
            latents.append(clean)
            noisy.append(with_noise(clean, drawing, most=0.2))
            decoded.append(vae.decode(noisy[-1]).sample.half())
    all_latents, all_noisy, all_goals = torch.cat(latents), torch.cat(noisy), torch.cat(decoded)

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(mine), (budget.batch,), generator=generator)
        some = rows[: max(1, budget.batch // 4)]
        with world.autocast():
            ours = tiny.decode(all_noisy[rows]).sample.float()
            encoded = tiny.encode(to_float(pixels[mine[some]]).to(world.device)).latents
        goal = all_goals[rows].float()
        error = functional.mse_loss(encoded.float(), all_latents[some])
        return picture_loss(ours, goal) + functional.mse_loss(ours, goal) + error

    fit(world, "vae_tiny", nn.ModuleDict({"vae": tiny}), loss_of, budget, folder)
    return tiny
