"""Requests of load tests as they went."""

from typing import Any

from loadtests.samples import Sample


def sample(latency_s: float, at_s: float = 0.0, **fields: Any) -> Sample:
    """Drawn at once, unless `fields` say otherwise."""
    values = {"outcome": "ok", "queue_s": 0.0, "fired_s": at_s, **fields}
    return Sample(0, "x", 25, scheduled_s=at_s, done_s=at_s + latency_s, **values)
