"""Applications without a model, so that nothing but the service takes time."""

import asyncio
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from serve.app import Ingress
from serve.config import AppArgs
from serve.generation import LOSSLESS_PNG, Drawing, Generation, PictureFormat, Timings
from serve.miniature import WEIGHTS_DIR
from serve.replica.encoding import encode
from serve.routing.least_work import LeastWork
from serve.weights.manifest import read_manifest

from ...fixed_step import FixedStep

VARIANT = "distilled"
# Stable Diffusion's own, whatever size the miniature's requests have.
_SIDE_PX = 512
# Makes a PNG of 480 KB of 512x512 at level 1; photos have 450 to 510.
_NOISE = 3.0
_MANY = 1000


@lru_cache
def photo(side_px: int) -> NDArray[np.uint8]:
    """A slope with noise on it, `(side_px, side_px, 3)`, whose PNG is as large as a photo's."""
    slope = np.linspace(40, 215, side_px)[:, None, None]
    noise = np.random.default_rng(0).normal(0, _NOISE, (side_px, side_px, 3))
    return np.clip(slope + noise, 0, 255).astype(np.uint8)


class PhotoSteps(FixedStep):
    """A denoiser whose steps sleep, and that draws the same photo for everybody."""

    def picture(self, generation: Generation, seed: int) -> NDArray[np.uint8]:
        """`(512, 512, 3)`."""
        return photo(_SIDE_PX)


class InstantReplica:
    """Takes the place of a `VariantReplica`; has the same picture for everybody."""

    def __init__(self) -> None:
        # As the miniature draws it: what is measured isn't how fast bytes are moved.
        self._picture = encode(photo(96), LOSSLESS_PNG)

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        """Give the picture away, after as little as a turn of the event loop."""
        await asyncio.sleep(0)
        return Drawing((self._picture,), Timings(0.0, 0.0, 0.0, 0.0), ())


def instant_app() -> Application:
    """The application's router over one such replica."""
    options = {"ray_actor_options": {"num_cpus": 0}, "max_ongoing_requests": _MANY}
    args = AppArgs(variants=(VARIANT,), num_cpus=0)
    replica = serve.deployment(InstantReplica).options(
        name=VARIANT,
        request_router_config=RequestRouterConfig(
            request_router_class=LeastWork, request_router_kwargs={"max_wait_s": args.max_queue_s}
        ),
        **options,
    )
    router = serve.deployment(serve.ingress()(Ingress)).options(name="router", **options)
    return router.bind(args, read_manifest(WEIGHTS_DIR), {VARIANT: replica.bind()})
