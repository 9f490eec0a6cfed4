"""What an endpoint serves, and on how many replicas, as `/v1/models` and `/readyz` have it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
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

    @property
    def replica_info(self) -> dict[str, Mapping[str, Any]]:
        """What replicas say of themselves, of each variant where one answered."""
        said = {name: model.get("replica") for name, model in self.models.items()}
        return {name: info for name, info in said.items() if info}

    @property
    def left_off(self) -> dict[str, Mapping[str, str]]:
        """Optimisations that failed in replicas, and why, of each variant where any did."""
        left_off = {name: info["left_off"] for name, info in self.replica_info.items()}
        return {name: parts for name, parts in left_off.items() if parts}

    @property
    def device(self) -> str:
        """The names of their devices; empty where none answered."""
        return " and ".join(sorted({info["device"] for info in self.replica_info.values()}))

    @property
    def peak_memory_bytes(self) -> dict[str, int]:
        """What torch has reserved of CUDA's memory, or the process of a CPU's, at most so far."""
        memory = {name: info["memory"] for name, info in self.replica_info.items()}
        peaks = {
            name: sizes["peak_reserved_bytes"] or sizes["peak_rss_bytes"]
            for name, sizes in memory.items()
        }
        return {name: peak for name, peak in peaks.items() if peak}

    def check(self) -> None:
        """Read what the report reads in the end: KeyError or TypeError where it isn't there."""
        _ = self.device, self.peak_memory_bytes, self.left_off, self.random_weights


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
        found = Endpoint(url, family, by_name, ready["warm_replicas"], models.get("auto"))
        found.check()
        return found
    except (KeyError, TypeError, ValueError) as fault:
        raise NotTheService(f"host: {url!r} is not this service: {fault!r}") from None


async def asked_again(client: Client, endpoint: Endpoint) -> Endpoint:
    """The same, with what its replicas say of themselves now; unchanged where it doesn't answer."""
    try:
        models = {model["id"]: model for model in (await client.get("/v1/models"))["data"]}
        now = replace(endpoint, models={**endpoint.models, **models})
        now.check()
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError):
        return endpoint
    return now
