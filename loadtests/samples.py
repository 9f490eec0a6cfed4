"""One request of a load test as it went, and the exact figures of a run."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

# A request that is fired later than this was not fired on time.
_LATE_S = 0.010
# A run with a larger share of late ones says nothing of the service.
_LATE_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Sample:
    """One request. Seconds are counted from the run's start.

    `steps` is None where the request left them to the variant. `variant` is what was asked for,
    `model` who answered, and `model_reason` why, for `auto`. `edit` is False for a generation.

    `unfinished` are those that the end of an interrupted run cut off; `unsent` are those for which
    the generator had no room. The replica timed `queue_s`, and `device_s`: denoising and decoding.
    """

    index: int
    variant: str
    steps: int | None
    scheduled_s: float
    fired_s: float
    done_s: float
    status: int = 0
    outcome: Literal["ok", "rejected", "failed", "unfinished", "unsent"] = "unfinished"
    reason: str = ""
    retry_after_s: float | None = None
    queue_s: float | None = None
    device_s: float | None = None
    model: str = ""
    model_reason: str = ""
    edit: bool = False

    @property
    def latency_s(self) -> float:
        """From the instant for which it was scheduled to its last byte."""
        return self.done_s - self.scheduled_s


@dataclass(frozen=True)
class Summary:
    """What a run found; rates are per second. `void` says why it found nothing, if so."""

    requests: int
    ok: int
    rejected: int
    failed: int
    unfinished: int
    late: int
    offered_per_s: float
    achieved_per_s: float
    within_slo: float | None
    p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    worst_s: float | None
    void: str


def summarize(samples: Sequence[Sample], duration_s: float, slo_s: float | None) -> Summary:
    """Exact figures of a run whose schedule spans `duration_s`.

    Percentiles are of the requests that were drawn: each is the latency of a request that really
    was (the smallest that at least that share doesn't exceed). `within_slo` is the share of all
    requests that were drawn within `slo_s`, so a rejected one counts against it.
    """
    count = Counter(sample.outcome for sample in samples)
    latencies = latencies_s(samples)
    sent = [sample for sample in samples if sample.outcome != "unsent"]
    late = sum(sample.fired_s - sample.scheduled_s > _LATE_S for sample in sent)
    ended_s = max([duration_s, *(sample.done_s for sample in sent)])
    in_time = sum(slo_s is not None and latency_s <= slo_s for latency_s in latencies)
    void = ""
    if count["unsent"]:
        void = f"{count['unsent']} requests were not sent: too many were under way"
    elif late > _LATE_SHARE * len(samples):
        void = (
            f"the generator fired {late} of {len(samples)} requests over {_LATE_S * 1000:g} ms late"
        )
    return Summary(
        requests=len(samples),
        ok=count["ok"],
        rejected=count["rejected"],
        failed=count["failed"],
        unfinished=count["unfinished"],
        late=late,
        offered_per_s=len(samples) / duration_s,
        achieved_per_s=count["ok"] / ended_s,
        within_slo=None if slo_s is None or not samples else in_time / len(samples),
        p50_s=percentile(latencies, 50),
        p95_s=percentile(latencies, 95),
        p99_s=percentile(latencies, 99),
        worst_s=latencies[-1] if latencies else None,
        void=void,
    )


def latencies_s(samples: Iterable[Sample], *, edits: bool | None = None) -> list[float]:
    """Of the requests that were drawn, ascending; with `edits` only of edits or of generations."""
    return sorted(
        sample.latency_s
        for sample in samples
        if sample.outcome == "ok" and edits in (None, sample.edit)
    )


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The nearest-rank percentile: always one of the values; None where there are none."""
    if not values:
        return None
    return float(np.percentile(values, percent, method="inverted_cdf"))
