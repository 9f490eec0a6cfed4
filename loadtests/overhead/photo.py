"""A picture that weighs what a photo does."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

# Makes a PNG of 480 KB of 512x512 at level 1; photos have 450 to 510.
_NOISE = 3.0


@lru_cache
def photo(side_px: int) -> NDArray[np.uint8]:
    """A slope with noise on it, `(side_px, side_px, 3)`, always the same."""
    slope = np.linspace(40, 215, side_px)[:, None, None]
    noise = np.random.default_rng(0).normal(0, _NOISE, (side_px, side_px, 3))
    return np.clip(slope + noise, 0, 255).astype(np.uint8)
