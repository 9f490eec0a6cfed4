"""Receives the engine's measurements; `replica` connects it to the metrics."""

from typing import Any, Literal

Outcome = Literal["done", "flagged", "cancelled", "expired", "closed", "out_of_memory", "failed"]


class Observer:
    """Ignores every measurement; override the methods that matter.

    Called from the engine's threads and the event loop: implementations must not block or raise.
    """

    def called(self, images: int, seconds: float | None) -> None:
        """A UNet call advanced `images`; None where its time can't be measured."""

    def admitted(self, job: Any, queue_s: float) -> None:
        """A job's first image got a slot, `queue_s` after it was submitted."""

    def prepared(self, seconds: float) -> None:
        """A job was prepared."""

    def decoded(self, images: int, seconds: float) -> None:
        """One call decoded `images`."""

    def previewed(self, job: Any, seconds: float, first_after_s: float | None) -> None:
        """A preview took `seconds`; a job's first one came `first_after_s` after `submit`."""

    def preview_skipped(self) -> None:
        """A preview was over its budget, failed, or was flagged."""

    def out_of_memory(self) -> None:
        """A call ran out of device memory."""

    def refused(self, job: Any) -> None:
        """A job's deadline was out of reach with the work ahead of it."""

    def ended(self, job: Any, outcome: Outcome, seconds: float) -> None:
        """A job ended, `seconds` after it was submitted."""

    def forecast(self, job: Any, expected_s: float, took_s: float) -> None:
        """A job is done; `expected_s` is the forecast from when it was submitted."""
