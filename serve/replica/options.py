"""What a replica can be configured with; `AppArgs` includes it."""

from pydantic import BaseModel, ConfigDict, Field

from ..pipelines.optimisations import DEFAULTS, Optimisations


class ReplicaOptions(BaseModel):
    """How a replica draws, and how much it takes on."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    slots: int | None = Field(
        None,
        ge=1,
        le=64,
        description="images under way at once in a replica; tried at start-up when absent",
    )
    optimisations: Optimisations = Field(
        DEFAULTS, description="what a replica may do to be faster, each with a switch"
    )
    safety_checker: bool = Field(
        False, description="keep back what the family's safety checker flags; its folder needs one"
    )
    png_parameters: bool = Field(
        True, description="put prompt, seed and other parameters into PNGs, as other tools do"
    )
    max_queued_requests: int = Field(
        32, ge=1, description="requests that wait inside a replica, and in each router before it"
    )
    max_queue_s: float = Field(
        60,
        gt=0,
        description="seconds that a request may have to wait for a replica to take it, and in the "
        "replica before it begins",
    )
    stuck_after_s: float = Field(
        120,
        gt=0,
        description="a replica whose device call lasts longer is replaced; a full-size step on a "
        "CPU may need more",
    )
