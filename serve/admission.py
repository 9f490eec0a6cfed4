"""Whether a replica takes on a request, and when to come back where it doesn't. Pure.

The replica decides, not the router: it alone knows all the work ahead of a request, whichever
router that came through.
"""

import math
from dataclasses import dataclass

# Shorter would be a busy loop, longer than ten minutes no client waits.
_BOUNDS_S = 1, 600
# So that clients that were refused together don't come back together.
_JITTER = 0.25


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a queue may be: in seconds before a request begins, and in requests that wait."""

    queue_s: float
    queue_requests: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request isn't taken on, for the client, and when to come back."""

    reason: str
    retry_after_s: int


def refusal(start_s: float, waiting: int, limits: Limits, draw: float) -> Refusal | None:
    """Why not to take on a request that would begin in `start_s`, with so many waiting before it.

    `draw`, from 0 to 1, spreads the answers. None where it is welcome.
    """
    if start_s > limits.queue_s:
        return Refusal(
            f"a request would wait about {start_s:.1f} s before it begins; at most "
            f"{limits.queue_s:g} s are allowed",
            retry_after_s(start_s - limits.queue_s, draw),
        )
    if waiting >= limits.queue_requests and start_s > 0:
        return Refusal(
            f"{waiting} requests wait already; at most {limits.queue_requests} are allowed",
            retry_after_s(start_s / (waiting + 1), draw),
        )
    return None


def retry_after_s(wait_s: float, draw: float) -> int:
    """Whole seconds for `Retry-After`: the wait and up to a quarter more, rounded up, bounded."""
    low, high = _BOUNDS_S
    return min(max(math.ceil(wait_s * (1 + _JITTER * draw)), low), high)
