"""The rates of the open loop: figures of each, and the highest one that meets the SLO."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..samples import Sample, latencies_s, percentile, summarize
from .design import DECIDING_SAMPLES, NARROW, Design, most_misses
from .record import Record, Run

# Where a run's first request waited longer in the replica, another client was using the service.
_IDLE_S = 0.1


@dataclass(frozen=True)
class Rung:
    """One rate of the open loop, its runs pooled. `p95_s` is None where it isn't decided.

    `steady_per_s` is the throughput without the time that the first and last answers took; 0 where
    too few were drawn to know it.
    """

    rate_per_s: float
    requests: int
    ok: int
    rejected: int
    failed: int
    late: int
    offered_per_s: float
    achieved_per_s: float
    steady_per_s: float
    within_slo: float
    mean_s: float | None
    p50_s: float | None
    generations_p50_s: float | None
    edits_p50_s: float | None
    p95_s: float | None
    p99_s: float | None
    slo: Literal["met", "missed", "not decided"]
    busy_at_start: bool
    void: str


@dataclass(frozen=True)
class Carried:
    """The highest rate that met the SLO and the lowest that missed it, per second.

    Neither lies far above what the variant draws: a lax SLO lets a run end before the queue of a
    rate that can't be kept has grown too long. `at_capacity` where that is what bounds it.
    """

    met_per_s: float | None
    missed_per_s: float | None
    at_capacity: bool = False

    def by(self, divisor: float) -> "Carried":
        """Per device, or for an hour's money."""
        met, missed = self.met_per_s, self.missed_per_s
        return Carried(met and met / divisor, missed and missed / divisor, self.at_capacity)


def rungs_of(design: Design, record: Record, variant: str, limit_s: float) -> list[Rung]:
    """Each rate that was tried, lowest first."""
    rates = {run.rate_per_s for run in record.of("open loop", variant) if run.samples}
    return [
        rung(design, list(record.of("open loop", variant, rate_per_s=rate)), rate, limit_s)
        for rate in sorted(rate for rate in rates if rate is not None)
    ]


def rung(design: Design, runs: Sequence[Run], rate_per_s: float, limit_s: float) -> Rung:
    """The runs of one rate, pooled."""
    samples = [sample for run in runs for sample in run.samples]
    duration_s = sum(run.duration_s for run in runs)
    whole = summarize(samples, max(duration_s, 1e-9), limit_s)
    drawn_s = latencies_s(samples)
    most_rejected = design.most_rejected * max(len(samples), design.samples_a_rate)
    slo: Literal["met", "missed", "not decided"] = "not decided"
    if not whole.void:
        if misses(samples, limit_s) > most_misses(len(samples)) or whole.rejected > most_rejected:
            slo = "missed"
        elif len(samples) >= DECIDING_SAMPLES:
            slo = "met"
    first = [run.samples[0] for run in runs if run.samples]
    took_s = sum(max(s.done_s for s in run.samples) for run in runs if run.samples)
    return Rung(
        rate_per_s=rate_per_s,
        requests=len(samples),
        ok=whole.ok,
        rejected=whole.rejected,
        failed=whole.failed,
        late=whole.late,
        offered_per_s=whole.offered_per_s,
        achieved_per_s=whole.ok / max(took_s, 1e-9),
        steady_per_s=_steady_per_s(runs) if len(drawn_s) >= DECIDING_SAMPLES // 2 else 0.0,
        within_slo=whole.within_slo or 0.0,
        mean_s=statistics.fmean(drawn_s) if drawn_s else None,
        p50_s=whole.p50_s,
        generations_p50_s=percentile(latencies_s(samples, edits=False), 50),
        edits_p50_s=percentile(latencies_s(samples, edits=True), 50),
        p95_s=decided_p95(drawn_s),
        p99_s=whole.p99_s if len(drawn_s) >= DECIDING_SAMPLES else None,
        slo=slo,
        busy_at_start=any((sample.queue_s or 0) > _IDLE_S for sample in first),
        void=whole.void,
    )


def _steady_per_s(runs: Sequence[Run]) -> float:
    """Without each run's first quarter of answers: many at once take their time to be there."""
    drawn, took_s = 0, 0.0
    for run in runs:
        done_s = sorted(sample.done_s for sample in run.samples if sample.outcome == "ok")
        if done_s:
            begun_s = done_s[len(done_s) // 4]
            drawn += sum(at_s > begun_s for at_s in done_s)
            took_s += done_s[-1] - begun_s
    return drawn / took_s if took_s else 0.0


def misses(samples: Sequence[Sample], limit_s: float) -> int:
    """Requests that got no picture within the SLO; 429s aside."""
    return sum(
        sample.outcome == "failed" or (sample.outcome == "ok" and sample.latency_s > limit_s)
        for sample in samples
    )


def capacity_per_s(closed_per_s: float | None, rungs: Sequence[Rung]) -> float:
    """The highest throughput of the closed loop or, where more drew at once, of the open loop."""
    return max([closed_per_s or 0.0, *(rung.steady_per_s for rung in rungs)])


def carried(rungs: Sequence[Rung], capacity_per_s: float) -> Carried:
    """The bracket of the highest rate that meets the SLO and can be kept."""
    missed = min((rung.rate_per_s for rung in rungs if rung.slo == "missed"), default=None)
    met = [rung.rate_per_s for rung in rungs if rung.slo == "met"]
    highest = max((rate for rate in met if missed is None or rate < missed), default=None)
    if highest is None or highest <= capacity_per_s:
        return Carried(highest, missed)
    beyond = NARROW * capacity_per_s
    return Carried(capacity_per_s, beyond if missed is None else min(missed, beyond), True)


def decided_p95(drawn_s: Sequence[float]) -> float | None:
    """The p95; None where there are too few for one."""
    return percentile(drawn_s, 95) if len(drawn_s) >= DECIDING_SAMPLES else None
