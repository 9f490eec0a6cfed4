"""Replicas that answer at once, behind the real router: what remains is the router and Serve."""

import asyncio

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from serve.app import Ingress
from serve.config import AppArgs
from serve.generation import Drawing, Generation, PictureFormat, Timings
from serve.miniature import WEIGHTS_DIR
from serve.routing.least_work import LeastWork
from serve.weights.manifest import read_manifest

from .rivals import VARIANT

_MANY = 1000


class InstantReplica:
    """Takes the place of a `VariantReplica`; has the same picture for everybody."""

    def __init__(self, picture: bytes) -> None:
        self._picture = picture

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        """Give the picture away, after as little as a turn of the event loop."""
        await asyncio.sleep(0)
        return Drawing((self._picture,), Timings(0.0, 0.0, 0.0, 0.0), ())


def instant_app(picture: bytes) -> Application:
    """The application's router over one such replica."""
    replica = serve.deployment(InstantReplica).options(
        name=VARIANT,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=_MANY,
        request_router_config=RequestRouterConfig(request_router_class=LeastWork),
    )
    router = serve.deployment(serve.ingress()(Ingress)).options(
        name="router", ray_actor_options={"num_cpus": 0}, max_ongoing_requests=_MANY
    )
    args = AppArgs(variants=(VARIANT,), num_cpus=0)
    return router.bind(args, read_manifest(WEIGHTS_DIR), {VARIANT: replica.bind(picture)})
