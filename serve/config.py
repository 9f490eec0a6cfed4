"""The arguments of `build_app`: every option of the service.

Nothing is read but the catalogue file, so that what comes of it goes wherever the options go. They
are flat, since Serve's command line knows only `name=value`; the classes group them by the
room that reads them.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .catalogue import family
from .http.options import HttpOptions
from .own_variants import CatalogueEntry, read_catalogue, with_entries
from .replica.options import ReplicaOptions
from .routing.auto import AutoPolicy, QualityFirstPolicy
from .variants import ALL, Family, FamilyName, Variant, offered_models


class ModelOptions(BaseModel):
    """Which weights to serve, and on which device."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    family: FamilyName = Field("miniature", description="which weights to serve")
    weights_dir: Path | None = Field(
        None, description="a family folder; the miniature's own when absent, required otherwise"
    )
    verify_hashes: bool = Field(
        False, description="compare every byte of the weights with their manifest before loading"
    )
    catalogue: tuple[CatalogueEntry, ...] = Field(
        (), description="more variants: entries, or the path of a YAML file of them"
    )
    variants: tuple[str, ...] = Field(
        (), description="which to serve, or all; when empty the family's first three"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the models run")

    @property
    def known(self) -> Family:
        """The family, with the variants of `catalogue`."""
        return with_entries(family(self.family), self.catalogue)

    @property
    def served(self) -> dict[str, Variant]:
        """The variants to serve, by name."""
        known = self.known
        if self.variants == (ALL,):
            return dict(known.variants)
        return {name: known.variants[name] for name in self.variants or known.default_variants}

    @field_validator("catalogue", mode="before")
    @classmethod
    def _read_file(cls, value: Any) -> Any:
        if not isinstance(value, str | Path):
            return value
        return read_catalogue(Path(value)) if str(value) else ()

    @field_validator("variants", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        # The command line hands over strings only.
        if not isinstance(value, str):
            return value
        return tuple(name.strip() for name in value.split(",") if name.strip())

    @model_validator(mode="after")
    def _known_variants(self) -> Self:
        try:
            known = self.known.variants
        except ValueError as fault:
            raise ValueError(f"catalogue: {fault}") from None
        for name in () if self.variants == (ALL,) else self.variants:
            if name not in known:
                raise ValueError(
                    f"variants: {name!r} was given; allowed: {', '.join(known)}, or {ALL} alone"
                )
        return self


class DeploymentOptions(BaseModel):
    """How Serve deploys the variants."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_replicas: int = Field(1, ge=1, description="replicas of each variant")
    num_gpus: float = Field(0, ge=0, description="GPUs that each variant replica reserves")
    num_cpus: float = Field(
        0.25,
        ge=0,
        description="cores that each variant replica reserves; over 1, it also uses that many",
    )
    packed: bool = Field(
        False, description="one deployment hosts all variants and shares what they share"
    )
    max_ongoing_requests: int = Field(
        64, ge=1, description="requests inside one replica, waiting ones included"
    )
    graceful_shutdown_timeout_s: float = Field(
        130, gt=0, description="how long a replica may finish its requests when it is stopped"
    )


class RoutingOptions(BaseModel):
    """Who draws a request that doesn't name a variant."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    default_model: str | None = Field(
        None,
        description="who draws requests without a model; when absent original where it is served, "
        "else the first variant",
    )
    auto: AutoPolicy | None = Field(
        QualityFirstPolicy(kind="quality-first", slo_s=5),
        description="which variant answers for model: auto; null offers none",
    )


class AppArgs(ModelOptions, RoutingOptions, DeploymentOptions, ReplicaOptions, HttpOptions):
    """Arguments of `build_app`: `args:` in a config file, `name=value` on the command line."""

    @property
    def model_when_absent(self) -> str:
        """What a request's `model` is where it names none."""
        if self.default_model is not None:
            return self.default_model
        return "original" if "original" in self.served else next(iter(self.served))

    @model_validator(mode="after")
    def _models_are_served(self) -> Self:
        offered = offered_models(self.served, self.auto is not None)
        if self.default_model is not None and self.default_model not in offered:
            raise ValueError(
                f"default_model: {self.default_model!r} was given; allowed: {', '.join(offered)}"
            )
        for name in self.auto.named if self.auto else ():
            if name not in self.served:
                raise ValueError(f"auto: {name!r} was given; allowed: {', '.join(self.served)}")
        return self

    @model_validator(mode="after")
    def _keys_to_count(self) -> Self:
        if self.max_requests_per_key is not None and self.api_keys_file is None:
            raise ValueError("max_requests_per_key: needs api_keys_file")
        return self
