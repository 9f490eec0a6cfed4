"""The measure of guidance that is left off late, not its results."""

import numpy as np
import pytest
import torch

from serve.miniature import WEIGHTS_DIR
from serve.miniature.training.guidance import measure, psnr, unet_share


def test_psnr_is_that_of_8_bit_pictures() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert psnr(black, black) == float("inf")
    assert psnr(black, black + 255) == pytest.approx(0)
    assert psnr(black, black + 51) == pytest.approx(13.979, abs=1e-3)


def test_the_unet_saves_half_of_what_is_unguided() -> None:
    # 26 calls: guidance in the first 13 of them is 39 rows in place of 52.
    assert unet_share(0.5) == 0.75
    assert unet_share(1.0) == 1.0


def test_less_guidance_takes_the_picture_further_away() -> None:
    torch.set_num_threads(1)
    lines = measure(
        WEIGHTS_DIR, "distilled", ["a red star on a yellow background"], 4.0, (1, 0.9, 0.3)
    )
    medians = [float(line.split("|")[5]) for line in lines]
    assert len(lines) == 3
    assert medians[0] == float("inf")
    assert medians == sorted(medians, reverse=True)
    assert medians[-1] < 40
