"""What an endpoint serves, and on how many replicas, as `/v1/models` and `/readyz` have it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import aiohttp

from serve.errors import ServingError
from serve.variants import FamilyName

from ..client import Client


class NotTheService(ServingError):
    """No answer from an address, or not this service's."""


@dataclass(frozen=True)
class Endpoint:
    """Read once, before anything is measured; `models` by variant, as `/v1/models` lists them.

    `auto` is the policy for `model: "auto"`; None where the service offers none.
    """

    url: str
    family: FamilyName
    models: Mapping[str, Mapping[str, Any]]
    replicas: Mapping[str, int]
    auto: Mapping[str, Any] | None = None

    @property
    def auto_variants(self) -> tuple[str, ...]:
        """Those that `auto` chooses among, the best first."""
        if self.auto is None:
            return ()
        return tuple(self.auto.get("variants") or self.auto.get("weights") or self.models)

    @property
    def random_weights(self) -> bool:
        """Whether the pictures say nothing about the variants."""
        return any(model["random_weights"] for model in self.models.values())


async def read(client: Client, url: str) -> Endpoint:
    """Ask `/v1/models` and `/readyz`.

    Raises:
        NotTheService: no answer, another service's, or not every variant is warm.
    """
    try:
        models, ready = await client.get("/v1/models"), await client.get("/readyz")
    except (aiohttp.ClientError, TimeoutError, ValueError) as fault:
        raise NotTheService(f"host: {url!r} does not answer: {fault}") from None
    try:
        if not ready["ready"]:
            raise NotTheService(f"host: {url!r} is not ready: {ready['warm_replicas']}")
        by_name = {model["id"]: model for model in models["data"]}
        (family,) = {model["family"] for model in by_name.values()}
        if family not in get_args(FamilyName):
            raise ValueError(f"family {family!r}")
        return Endpoint(url, family, by_name, ready["warm_replicas"], models.get("auto"))
    except (KeyError, TypeError, ValueError) as fault:
        raise NotTheService(f"host: {url!r} is not this service: {fault!r}") from None
