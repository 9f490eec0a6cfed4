"""The miniature's models, freshly initialised from the configurations beside the shipped weights.

They keep the shapes of the real family, made small: three variants from one text encoder, VAE
factor 8, four latent channels, a UNet of two resnets a block with cross-attention and a mid block,
its student with one pair in every block and no mid block, PNDM over 1,000 steps. The KL autoencoder
is wide enough to cost as much beside its UNet as the real one does.
"""

from typing import Any

from diffusers import PNDMScheduler

from ...catalogue import MINIATURE
from ...weights.random_values import build_model
from .. import WEIGHTS_DIR


def new_model(name: str) -> Any:
    """A model by the name of its folder, in fp32, with values from torch's present seed."""
    component = MINIATURE.components(MINIATURE.variants)[name]
    return build_model(component, WEIGHTS_DIR / name)


def scheduler() -> PNDMScheduler:
    """Stable Diffusion v1's scheduler, value for value."""
    return PNDMScheduler.from_pretrained(WEIGHTS_DIR / "scheduler")
