"""How many previews others can bear."""

import threading

# Of the device's time, while several requests share it.
_SHARE = 0.05


class PreviewBudget:
    """Lets previews take 5 % of the time of the calls that several requests share.

    Calls earn, previews spend; one is allowed while what is earned covers what the last one took.
    The first is allowed on credit. A request that is alone pays for its previews itself.
    """

    def __init__(self) -> None:
        self._earned_s = 0.0
        self._last_s = 0.0
        # One thread steps, another decodes.
        self._lock = threading.Lock()

    def earn(self, call_s: float) -> None:
        """A shared call has taken that long."""
        with self._lock:
            # No more than for three previews, so that a quiet hour doesn't pay for a burst.
            self._earned_s = min(self._earned_s + _SHARE * call_s, 3 * self._last_s)

    @property
    def allows_one(self) -> bool:
        """Whether the next preview is paid for."""
        return self._earned_s >= self._last_s

    def spend(self, preview_s: float, *, shared: bool) -> None:
        """A preview has taken that long, on shared time or on its own request's."""
        with self._lock:
            self._last_s = preview_s
            if shared:
                self._earned_s -= preview_s
