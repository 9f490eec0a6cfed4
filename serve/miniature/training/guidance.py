"""What leaving guidance off in the last part of a trajectory does to the miniature's pictures.

`python -m serve.miniature.training.guidance [--weights DIR] [--quick]` draws the same prompts and
seeds with guidance throughout and with less of it, and prints a table: how many pictures have both
colours right, how near they are to the fully guided ones, and what the UNet saved.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ...pipelines.optimisations import Optimisations
from ...pipelines.pipeline import Pipeline
from ...pipelines.trajectories import guided_calls, unet_calls
from ...variants import MINIATURE
from .. import WEIGHTS_DIR
from .family import STEPS, draw_pictures
from .measure import colour_prompts, colours_right

SHARES = (1.0, 0.9, 0.7, 0.5, 0.3)
"""Of the trajectory with guidance, 1 first: the others are held to it."""


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Peak signal to noise of 8-bit pictures, dB; infinite where they are equal."""
    error = np.square(one.astype(float) - other).mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def unet_share(share: float) -> float:
    """Rows that the UNet computes, as a share of those with guidance throughout."""
    calls = unet_calls("pndm", STEPS)
    return (calls + guided_calls(calls, share)) / (2 * calls)


def measure(
    weights: Path,
    variant: str,
    prompts: list[str],
    guidance_scale: float,
    shares: tuple[float, ...] = SHARES,
) -> list[str]:
    """One line of the table for every share."""
    seeds, full, lines = list(range(len(prompts))), None, []
    for share in shares:
        pipeline = Pipeline.load(
            [MINIATURE.variants[variant]],
            weights,
            "cpu",
            Optimisations(skip_guidance_after=share),
        )
        pictures = draw_pictures(pipeline, variant, prompts, seeds, guidance_scale)
        full = pictures if full is None else full
        apart = [psnr(one, other) for one, other in zip(pictures, full, strict=True)]
        right = colours_right(prompts, pictures)
        lines.append(
            f"| {variant} | {guidance_scale:g} | {share:g} | {right:.0%} "
            f"| {np.median(apart):.1f} | {min(apart):.1f} | {unet_share(share):.0%} |"
        )
    return lines


def main() -> None:
    """Read the command line, draw, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m serve.miniature.training.guidance", description=__doc__
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS_DIR)
    parser.add_argument("--quick", action="store_true", help="8 prompts in place of 60")
    args = parser.parse_args()
    torch.set_num_threads(1)
    prompts = colour_prompts()[: 8 if args.quick else 60]
    print(
        "| variant | guidance | guided share | colours right | PSNR, median | least | UNet rows |"
    )
    print("|---|---|---|---|---|---|---|")
    for variant, scale in (("original", 2.0), ("distilled", 2.0), ("original", 4.0)):
        for line in measure(args.weights, variant, prompts, scale):
            print(line, flush=True)


if __name__ == "__main__":
    main()
