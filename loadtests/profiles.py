"""How many users a load test has at each moment: pure functions of the time, without Locust."""

import math
from typing import Literal

Profile = Literal["step", "saturation", "spike", "soak"]

# Users double until throughput no longer grows by this much from one level to the next.
SATURATED_BELOW = 1.05


_LEVELS = 4


def step(at_s: float, duration_s: float, peak: int) -> int:
    """Four equal times at evenly rising numbers of users, up to the peak."""
    level = int(at_s / duration_s * _LEVELS) + 1
    return math.ceil(peak * level / _LEVELS)


def spike(at_s: float, duration_s: float, peak: int) -> int:
    """A quarter of the peak, with the peak in the middle fifth."""
    return peak if 0.4 <= at_s / duration_s < 0.6 else math.ceil(peak / 4)


class Saturation:
    """1, 2, 4, 8, ... users up to the peak, each level for as long as the others.

    Ends early after the first level that brought less than 5 % more than the one before: that many
    users saturate the service.
    """

    def __init__(self, duration_s: float, peak: int) -> None:
        self._levels = [2**power for power in range(peak.bit_length()) if 2**power <= peak]
        self._level_s = duration_s / len(self._levels)
        self._level = 0
        self._ended_requests = 0
        self._rates_per_s: list[float] = []

    def users(self, at_s: float, requests: int) -> int | None:
        """The users now, given how many requests have been answered so far; None at the end."""
        if at_s >= (self._level + 1) * self._level_s:
            self._rates_per_s.append((requests - self._ended_requests) / self._level_s)
            self._ended_requests = requests
            self._level += 1
            before_per_s, now_per_s = [0.0, *self._rates_per_s][-2:]
            if now_per_s < SATURATED_BELOW * before_per_s:
                self._level = len(self._levels)
        return self._levels[self._level] if self._level < len(self._levels) else None
