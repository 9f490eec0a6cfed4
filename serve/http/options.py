"""What the HTTP side can be configured with; `AppArgs` includes it."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class RequestLimits(BaseModel):
    """How much work and time one request may ask for."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_image_steps: int = Field(
        400,
        ge=1,
        description="a request's images x steps, in steps with guidance at the default size",
    )
    max_request_s: float | None = Field(
        None, gt=0, description="the deadline of requests that bring none, or a later one"
    )


class UploadLimits(BaseModel):
    """How large a picture that a client sends may be."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_upload_mib: int = Field(
        16, ge=1, le=64, description="MiB of a picture's file that a client sends"
    )
    max_upload_side_px: int = Field(
        4096, ge=64, le=16384, description="pixels of each of its sides"
    )


class HttpOptions(UploadLimits, RequestLimits):
    """Which routes are served, and the limits of clients and requests."""

    playground: bool = Field(True, description="serve the page at `/`")
    a1111: bool = Field(False, description="answer AUTOMATIC1111's clients under /sdapi/v1")
    min_ready_replicas: int = Field(1, ge=0, description="/readyz wants this many per variant")
    api_keys_file: Path | None = Field(
        None, description="names and hashes of API keys (serve/keys.py); none needed when absent"
    )
    max_requests_per_key: int | None = Field(
        None,
        ge=1,
        description="requests of one API key at once for each variant, in each router replica",
    )
    body_timeout_s: float = Field(
        10,
        gt=0,
        le=600,
        description="a request is refused whose body isn't there after so long, and a second more "
        "for each 512 KiB that came",
    )
    retry_after_s: int = Field(
        5,
        ge=1,
        le=600,
        description="Retry-After without a forecast: Serve's own limits, no replica, a busy key",
    )
