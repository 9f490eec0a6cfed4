"""The arguments of `build_app`: everything that a deployment of the service can be told. No I/O."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from .engine.slots import Policy
from .pipelines.optimisations import DEFAULTS, Optimisations
from .routing.auto import AutoPolicy, QualityFirstPolicy
from .routing.shadow import ShadowPolicy
from .variants import FamilyName, Variant, family


class AppArgs(BaseModel):
    """Arguments of `build_app`: `args:` in a config file, `name=value` on the command line."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    family: FamilyName = "miniature"
    weights_dir: Path | None = Field(
        None, description="a family folder; the miniature's own when absent, required otherwise"
    )
    verify_hashes: bool = Field(
        False, description="compare every byte of the weights with their manifest before loading"
    )
    safety_checker: bool = Field(
        False, description="keep back what the family's safety checker flags; its folder needs one"
    )
    variants: tuple[str, ...] = Field((), description="which to serve; empty means all")
    default_model: str | None = Field(
        None,
        description="who draws requests without a model; when absent original where it is served, "
        "else the first variant",
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    auto: AutoPolicy | None = Field(
        QualityFirstPolicy(kind="quality-first", slo_s=5),
        description="which variant answers for model: auto; null offers none",
    )
    shadow: ShadowPolicy | None = Field(
        None, description="repeat a share of the requests on a second variant, to compare"
    )
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
    policy: Policy = Field(
        "step", description="when requests join: at any step, whole batches, or one by one"
    )
    slots: int | None = Field(
        None,
        ge=1,
        le=64,
        description="images under way at once in a replica; tried at start-up when absent",
    )
    optimisations: Optimisations = Field(
        DEFAULTS, description="what a replica may do to be faster, each with a switch"
    )
    png_parameters: bool = Field(
        True, description="put prompt, seed and the like into PNGs, as other tools do"
    )
    max_ongoing_requests: int = Field(
        64, ge=1, description="requests inside one replica, waiting ones included"
    )
    max_queued_requests: int = Field(
        32, ge=1, description="requests that wait inside a replica, and in each router before it"
    )
    max_queue_s: float = Field(
        60, gt=0, description="seconds that a request may have to wait before it begins"
    )
    max_request_s: float | None = Field(
        None, gt=0, description="the deadline of requests that bring none, or a later one"
    )
    retry_after_s: int = Field(5, ge=1, le=600, description="Retry-After when a queue is full")
    max_image_steps: int = Field(
        400, ge=1, description="a request's images x steps, in pictures of the default size"
    )
    playground: bool = Field(True, description="serve the page at `/`")
    a1111: bool = Field(False, description="answer AUTOMATIC1111's clients under /sdapi/v1")
    min_ready_replicas: int = Field(1, ge=0, description="/readyz wants this many per variant")
    api_keys_file: Path | None = Field(
        None, description="names and hashes of API keys (serve/keys.py); none needed when absent"
    )
    max_requests_per_key: int | None = Field(
        None, ge=1, description="requests of one API key at once, in each router replica"
    )
    body_timeout_s: float = Field(
        10, gt=0, le=600, description="a request whose body takes longer to arrive is refused"
    )
    stuck_after_s: float = Field(
        120,
        gt=0,
        description="a replica whose device call lasts longer is replaced; a full-size step on a "
        "CPU may need more",
    )
    graceful_shutdown_timeout_s: float = Field(
        130, gt=0, description="how long a replica may finish its requests when it is stopped"
    )

    @property
    def served(self) -> dict[str, Variant]:
        """The catalogue's entries of the variants to serve, by name."""
        known = family(self.family).variants
        return {name: known[name] for name in self.variants or known}

    @property
    def model_when_absent(self) -> str:
        """What a request's `model` is where it names none."""
        if self.default_model is not None:
            return self.default_model
        return "original" if "original" in self.served else next(iter(self.served))

    @field_validator("variants", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        # The command line hands over strings only.
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known_variants(self) -> Self:
        known = family(self.family).variants
        for name in self.variants:
            if name not in known:
                raise ValueError(f"variants: {name!r} was given; allowed: {', '.join(known)}")
        return self

    @model_validator(mode="after")
    def _default_is_served(self) -> Self:
        allowed = [*self.served, *(["auto"] if self.auto is not None else [])]
        if self.default_model is not None and self.default_model not in allowed:
            raise ValueError(
                f"default_model: {self.default_model!r} was given; allowed: {', '.join(allowed)}"
            )
        return self

    @model_validator(mode="after")
    def _policies_name_what_is_served(self) -> Self:
        for name in self.auto.named if self.auto else ():
            if name not in self.served:
                raise ValueError(f"auto: {name!r} was given; allowed: {', '.join(self.served)}")
        if self.shadow is not None and self.shadow.variant not in self.served:
            raise ValueError(
                f"shadow: {self.shadow.variant!r} was given; allowed: {', '.join(self.served)}"
            )
        return self

    @model_validator(mode="after")
    def _keys_to_count(self) -> Self:
        if self.max_requests_per_key is not None and self.api_keys_file is None:
            raise ValueError("max_requests_per_key: needs api_keys_file")
        return self
