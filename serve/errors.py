"""Every error that a request can end in, with its status and code.

    http ── routing ── replica ── engine ── pipelines
     └── http/error_responses.py: each class becomes a status and a body

Whoever finds a fault raises the class, in any room. The classes import neither Ray nor HTTP. An
error crosses a Ray handle by pickling, which rebuilds it from `args`: so every class hands its
positional, primitive arguments on to `Exception.__init__` unchanged.
"""

import json
from typing import Any, ClassVar

_SHOWN_CHARACTERS = 80


def shown(value: Any) -> str:
    """A value as messages repeat it: the JSON that a client would write, cut to 80 characters.

    What JSON has no word for becomes `NaN` or `Infinity`, or a string of what Python calls it.
    """
    # ASCII, so that no bidirectional or zero-width character can change how the message reads.
    text = json.dumps(value, default=ascii)
    cut = f"{text[: _SHOWN_CHARACTERS - 3]}..."
    return text if len(text) <= _SHOWN_CHARACTERS else cut


class ServingError(Exception):
    """The root: its message is meant for the client."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: ClassVar[str] = "server_error"

    @property
    def message(self) -> str:
        """What was wrong, what was given and what is allowed."""
        return str(self.args[0])

    @property
    def param(self) -> str | None:
        """The request's field at fault, where there is one."""
        return None

    @property
    def retry_after_s(self) -> float | None:
        """Seconds after which a retry makes sense; None where it never does."""
        return None

    def __str__(self) -> str:
        return self.message


class InvalidRequest(ServingError):
    """A request that can't be served as it stands: `InvalidRequest(message, param)`."""

    status = 400
    code = "invalid_value"
    type = "invalid_request_error"

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message, param)

    @property
    def param(self) -> str | None:
        """The field given to the constructor."""
        return None if self.args[1] is None else str(self.args[1])


class UnknownField(InvalidRequest):
    """A field that the request schema doesn't know."""

    code = "unknown_parameter"


class UnsuitableVariant(InvalidRequest):
    """A request for another kind of variant: one that isn't to blame where others are offered."""


class MalformedBody(InvalidRequest):
    """A body that isn't a JSON object in UTF-8, or isn't a form where a form is expected."""

    code = "malformed_body"


class BodyTooLarge(InvalidRequest):
    """A body, or a file in it, over the limit, counted in bytes read."""

    status = 413
    code = "body_too_large"


class RequestTimeout(InvalidRequest):
    """A body that didn't arrive in time."""

    status = 408
    code = "request_timeout"


class HeadersTooLarge(InvalidRequest):
    """Too many headers, or too many bytes of them."""

    status = 431
    code = "headers_too_large"


class InvalidApiKey(InvalidRequest):
    """No API key, or one that isn't known here."""

    status = 401
    code = "invalid_api_key"


class ModelNotAllowed(InvalidRequest):
    """A variant that the API key may not use."""

    status = 403
    code = "model_not_allowed"


class CrossSiteRequest(InvalidRequest):
    """A page of another host had a visitor's browser send it."""

    status = 403
    code = "cross_site_request"


class Flagged(ServingError):
    """Every picture of the request was flagged by the safety checker."""

    status = 400
    code = "content_policy_violation"
    type = "image_generation_user_error"


class VariantNotFound(InvalidRequest):
    """A `model` that this server doesn't serve."""

    status = 404
    code = "model_not_found"


class RouteNotFound(InvalidRequest):
    """A path that doesn't exist here."""

    status = 404
    code = "route_not_found"


class MethodNotAllowed(InvalidRequest):
    """A path that exists, asked with another method."""

    status = 405
    code = "method_not_allowed"


class NotAcceptable(InvalidRequest):
    """An `Accept` header that none of the possible answers fits."""

    status = 406
    code = "not_acceptable"


class RetryLater(ServingError):
    """Refused now, welcome later: `RetryLater(message, retry_after_s)`."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message, retry_after_s)

    @property
    def retry_after_s(self) -> float | None:
        """The seconds given to the constructor."""
        return float(self.args[1])


class Overloaded(RetryLater):
    """The variant's queue is full."""

    status = 429
    code = "overloaded"
    type = "rate_limit_error"


class TooManyRequests(RetryLater):
    """The API key has as many requests under way as it may, or the router as many pictures."""

    status = 429
    code = "too_many_requests"
    type = "rate_limit_error"


class VariantUnavailable(RetryLater):
    """No replica could answer, also not on the second try."""

    status = 503
    code = "variant_unavailable"


class DeadlineUnreachable(RetryLater):
    """The request's deadline can't be met with the work that is ahead of it."""

    status = 429
    code = "deadline_unreachable"
    type = "rate_limit_error"


class DeadlineExceeded(ServingError):
    """The request's deadline passed, or became out of reach, while it was under way."""

    status = 504
    code = "deadline_exceeded"


class RequestInterrupted(ServingError):
    """The request's own client ended it."""

    status = 409
    code = "interrupted"


class EngineClosed(ServingError):
    """Work was handed to an engine that is shutting down."""

    status = 503
    code = "shutting_down"


class OutOfDeviceMemory(ServingError):
    """A call into the device found no memory, also on its own."""

    status = 503
    code = "out_of_device_memory"


class NotFinite(ServingError):
    """An image that is not a number: its latents went to infinity on the way."""

    code = "not_finite"


class WeightsError(ServingError):
    """A family folder that must not be served: incomplete, damaged, or holding a pickle."""

    code = "bad_weights"


class KeysError(ServingError):
    """A file of API keys that is missing or broken."""

    code = "bad_keys"


class DeviceUnavailable(ServingError):
    """The configured device isn't there."""

    code = "device_unavailable"
