"""What the routes ask of the service behind them: a protocol, so that they know no Ray."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from pydantic import BaseModel

from ..generation import Choice, Drawing, Generation, PictureEvent, PictureFormat
from ..replica_info import ReplicaInfo
from ..variants import Family, Variant
from ..weights.manifest import Manifest


class Router(Protocol):
    """What the routes ask of the router."""

    @property
    def family(self) -> Family:
        """What is served."""

    @property
    def variants(self) -> dict[str, Variant]:
        """The served variants by name."""

    @property
    def models(self) -> list[str]:
        """What a request's `model` may be: the variants, and `auto` where it is offered."""

    @property
    def manifest(self) -> Manifest:
        """Where their weights came from."""

    @property
    def default_model(self) -> str:
        """Who draws requests that name no `model`: a variant, or `auto`."""

    @property
    def auto(self) -> BaseModel | None:
        """The policy that decides for `model: "auto"`, if there is one."""

    async def choose(self, model: str, resolve: Callable[[Variant], Generation]) -> Choice:
        """Decide who draws; raises `VariantNotFound`, and what `resolve` raises."""

    async def forecast(self, generation: Generation) -> float:
        """Seconds that a request would take now; infinite where that is unknown."""

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        """Have a replica draw; raises `ServingError`."""

    def stream(
        self, generation: Generation, picture_format: PictureFormat
    ) -> AsyncIterator[PictureEvent]:
        """Have a replica draw, and tell what it makes on the way; raises `ServingError`."""

    async def warm_replicas(self) -> dict[str, int]:
        """How many replicas of each variant are warm."""

    async def replica_info(self) -> dict[str, ReplicaInfo | None]:
        """What one replica of each variant says of itself; None where none answers at once."""


def few_step_variants(router: Router) -> list[str]:
    """The served variants that were distilled for few steps."""
    return [name for name, variant in router.variants.items() if variant.few_step]
