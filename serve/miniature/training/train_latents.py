"""Stage 1: the meaning of the latents.

A light autoencoder, initialised with the principal components of 8x8 patches, determines what the
four latent channels mean. All later stages are regressions on these fixed latents, so the UNets and
decoders can be trained independently.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from .fitting import Budget, World, fit

CHANNELS = 4
PATCH_PX = 8


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.layers(x)
        return out


class LatentCoder(nn.Module):
    """Pixels in [-1, 1], (B, 3, H, W), to unit-variance latents (B, 4, H/8, W/8) and back."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.linear_in = nn.Conv2d(3, CHANNELS, PATCH_PX, PATCH_PX)
        self.linear_out = nn.ConvTranspose2d(CHANNELS, 3, PATCH_PX, PATCH_PX)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4), nn.Conv2d(48, width, 3, padding=1), _Residual(width),
            nn.Conv2d(width, 2 * width, 3, 2, 1), _Residual(2 * width), _Residual(2 * width),
            nn.Conv2d(2 * width, CHANNELS, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(CHANNELS, 2 * width, 3, padding=1),
            _Residual(2 * width), _Residual(2 * width), _Residual(2 * width),
            nn.Conv2d(2 * width, 4 * width, 1), nn.PixelShuffle(2),
            _Residual(width), _Residual(width), _Residual(width),
            nn.Conv2d(width, 48, 3, padding=1), nn.PixelShuffle(4),
        )  # fmt: skip
        # Only normalises, without a learnt scale.
        self.norm = nn.BatchNorm2d(CHANNELS, affine=False, momentum=0.02)
        for last in (self.encoder[-1], self.decoder[-2]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]

    def start_from_components(self, pixels: Tensor) -> None:
        """Initialise both linear paths with the leading principal components of the patches."""
        patches = functional.unfold(pixels, PATCH_PX, stride=PATCH_PX).transpose(1, 2).flatten(0, 1)
        mean = patches.mean(0)
        _, values, vectors = torch.linalg.svd(patches - mean, full_matrices=False)
        basis = vectors[:CHANNELS]
        spread = values[:CHANNELS] / patches.shape[0] ** 0.5
        with torch.no_grad():
            shape = (CHANNELS, 3, PATCH_PX, PATCH_PX)
            self.linear_in.weight.copy_((basis / spread[:, None]).view(shape))
            assert self.linear_in.bias is not None
            assert self.linear_out.bias is not None
            self.linear_in.bias.copy_(-(basis / spread[:, None]) @ mean)
            self.linear_out.weight.copy_((basis * spread[:, None]).view(shape))
            self.linear_out.bias.copy_(mean.view(3, -1).mean(1))

    def encode(self, pixels: Tensor) -> Tensor:
        """Latents of unit variance a channel."""
        latents: Tensor = self.norm(self.linear_in(pixels) + self.encoder(pixels))
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels, not clamped."""
        pixels: Tensor = self.linear_out(latents) + self.decoder(latents)
        return pixels


def to_float(pixels: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) to float in [-1, 1], (B, 3, H, W)."""
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def picture_loss(ours: Tensor, truth: Tensor) -> Tensor:
    """L1 on pixels and on differences between neighbours, which keeps edges sharp."""
    across = functional.l1_loss(ours.diff(dim=3), truth.diff(dim=3))
    down = functional.l1_loss(ours.diff(dim=2), truth.diff(dim=2))
    return functional.l1_loss(ours, truth) + 0.5 * (across + down)


def with_noise(latents: Tensor, generator: torch.Generator, most: float = 0.3) -> Tensor:
    """Add noise of random strength, so that decoders tolerate a UNet's residual noise."""
    strength = most * torch.rand(len(latents), 1, 1, 1, generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    return latents + (strength * noise).to(latents.device)


def train_latents(world: World, pixels: Tensor, budget: Budget, folder: Path) -> LatentCoder:
    """Train on uint8 pictures (N, 96, 96, 3)."""
    torch.manual_seed(0)
    coder = LatentCoder()
    coder.start_from_components(to_float(pixels[:600]))

    def loss_of(generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pixels), (budget.batch,), generator=generator)
        truth = to_float(pixels[rows]).to(world.device)
        with world.autocast():
            latents = coder.encode(truth).float()
            decoded = coder.decode(with_noise(latents, generator))
        return picture_loss(decoded.float(), truth)

    fit(world, "latents", nn.ModuleDict({"coder": coder}), loss_of, budget, folder)
    return coder.eval()
