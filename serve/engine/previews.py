"""The time budget of previews on a device that several requests share."""

import threading

# Of the device's time, while several requests share it.
_SHARE = 0.05


class PreviewBudget:
    """Limits previews to 5 % of the time of calls that several requests share.

    Shared calls add to the balance and previews draw on it; the next preview is allowed while the
    balance covers what the last one took. The first is allowed on credit. A request that has the
    device to itself pays for its previews with its own time.
    """

    def __init__(self) -> None:
        self._balance_s = 0.0
        self._last_s = 0.0
        # One thread steps, another decodes.
        self._lock = threading.Lock()

    def earn(self, call_s: float) -> None:
        """Add the share of one shared call."""
        with self._lock:
            # At most three previews' worth, so that a quiet hour doesn't pay for a burst.
            self._balance_s = min(self._balance_s + _SHARE * call_s, 3 * self._last_s)

    @property
    def allows_preview(self) -> bool:
        """Whether the balance covers another preview."""
        return self._balance_s >= self._last_s

    def spend(self, preview_s: float, *, shared: bool) -> None:
        """Record a preview's time, and charge it where other requests shared the device."""
        with self._lock:
            self._last_s = preview_s
            if shared:
                self._balance_s -= preview_s
