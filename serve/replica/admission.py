"""Whether a replica takes on a request, and when to come back where it doesn't. Pure.

The replica decides, not the router: it alone knows all the work ahead of a request, whichever
router that came through.
"""

import math
from dataclasses import dataclass

from .options import ReplicaOptions

# Shorter would be a busy loop, longer than ten minutes no client waits.
_BOUNDS_S = 1, 600
# So that clients that were refused together don't come back together.
_JITTER = 0.25
# For the returns of others a refused request waits at most so many queues' lengths.
_MOST_QUEUES = 2


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request isn't taken on, for the client, and when to come back."""

    reason: str
    retry_after_s: int


class Returns:
    """The work of refused requests whose `Retry-After` isn't over; times are on one clock."""

    def __init__(self) -> None:
        # By the second in which it is due: a flood of refusals doesn't fill the memory.
        self._work_s: dict[int, float] = {}

    def expect(self, due_at: float, work_s: float) -> None:
        """A refused request comes back at `due_at`, with so many seconds of work."""
        second = math.ceil(due_at)
        self._work_s[second] = self._work_s.get(second, 0.0) + work_s

    def work_s(self, now: float) -> float:
        """Seconds of work that are still to come back."""
        self._work_s = {second: work_s for second, work_s in self._work_s.items() if second > now}
        return sum(self._work_s.values())


def refusal(
    start_s: float,
    waiting: int,
    options: ReplicaOptions,
    returns_s: float,
    draw: float,
) -> Refusal | None:
    """Why not to take on a request; None where it is welcome.

    Others were refused before it and come back before it: it is told to come after them, up to two
    queues' lengths. By then all that waits now has begun, even where half of the device's time goes
    to newcomers, and in a long overload it is unknown how many do come back.

    Args:
        start_s: when the request would begin, in seconds from now.
        waiting: the requests that wait before it.
        options: how long a queue may be.
        returns_s: the work of those who were refused before it (`Returns`).
        draw: a random number from 0 to 1, which spreads the answers.
    """
    others_s = min(returns_s, _MOST_QUEUES * options.max_queue_s)
    if start_s > options.max_queue_s:
        return Refusal(
            f"a request would wait about {start_s:.1f} s before it begins; at most "
            f"{options.max_queue_s:g} s are allowed",
            retry_after_s(start_s - options.max_queue_s + others_s, draw),
        )
    if waiting >= options.max_queued_requests and start_s > 0:
        return Refusal(
            f"{waiting} requests wait already; at most {options.max_queued_requests} are allowed",
            retry_after_s(start_s / (waiting + 1) + others_s, draw),
        )
    return None


def retry_after_s(wait_s: float, draw: float) -> int:
    """Whole seconds for `Retry-After`: the wait and up to a quarter more, rounded up, bounded."""
    low, high = _BOUNDS_S
    return min(max(math.ceil(wait_s * (1 + _JITTER * draw)), low), high)
