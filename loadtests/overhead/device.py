"""A device that isn't there: steps that sleep, and pictures that weigh what photos do."""

import numpy as np
from numpy.typing import NDArray

from serve.generation import Generation

from ..fixed_step import FixedStep
from .photo import photo

# Stable Diffusion's own, whatever size the miniature's requests have.
_SIDE_PX = 512


class Painter(FixedStep):
    """A denoiser whose steps sleep, and that draws the same photo for everybody."""

    def picture(self, generation: Generation, seed: int) -> NDArray[np.uint8]:
        """`(512, 512, 3)`."""
        return photo(_SIDE_PX)
