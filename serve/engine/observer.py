"""Where the engine's measurements go; `replica` connects it to the metrics."""

from typing import Any, Literal, Protocol

Outcome = Literal["done", "flagged", "cancelled", "expired", "closed", "out_of_memory", "failed"]


class Observer(Protocol):
    """Told by the engine's threads and by the event loop; must not block or raise."""

    def called(self, images: int, seconds: float | None) -> None:
        """A call of the UNet stepped so many images; None where its time can't be told."""

    def occupied(self, under_way: int, waiting: int, cap: int) -> None:
        """Images in slots, images that wait for one, and slots, after a step boundary."""

    def admitted(self, job: Any, queue_s: float) -> None:
        """A job's first image got a slot."""

    def decoded(self, images: int, seconds: float) -> None:
        """So many images became pixels."""

    def previewed(self, job: Any, seconds: float, first_after_s: float | None) -> None:
        """A preview took that long; how long after `submit`, for a job's first."""

    def preview_skipped(self) -> None:
        """A preview would have cost other requests too much, failed, or was flagged."""

    def out_of_memory(self) -> None:
        """A call found no memory."""

    def refused(self, job: Any) -> None:
        """A job's deadline couldn't be met with the work ahead of it."""

    def ended(self, job: Any, outcome: Outcome, seconds: float) -> None:
        """A job ended, so long after it was submitted."""

    def forecast(self, job: Any, expected_s: float, took_s: float) -> None:
        """A job is done that was expected to take so long when it was submitted."""


class Unobserved:
    """For whoever measures by other means."""

    def called(self, images: int, seconds: float | None) -> None:
        """Forget it."""

    def occupied(self, under_way: int, waiting: int, cap: int) -> None:
        """Forget it."""

    def admitted(self, job: Any, queue_s: float) -> None:
        """Forget it."""

    def decoded(self, images: int, seconds: float) -> None:
        """Forget it."""

    def previewed(self, job: Any, seconds: float, first_after_s: float | None) -> None:
        """Forget it."""

    def preview_skipped(self) -> None:
        """Forget it."""

    def out_of_memory(self) -> None:
        """Forget it."""

    def refused(self, job: Any) -> None:
        """Forget it."""

    def ended(self, job: Any, outcome: Outcome, seconds: float) -> None:
        """Forget it."""

    def forecast(self, job: Any, expected_s: float, took_s: float) -> None:
        """Forget it."""
