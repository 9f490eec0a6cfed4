"""`auto` beside each pinned variant at the same rates: what to offer, and what came of it."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..replies import AUTO
from ..rounds import rotated
from ..samples import latencies_s, summarize
from .design import NARROW, Design
from .findings import VariantFindings, slo_s
from .ratios import Difference, Outcome, Repeated
from .record import Record, Run

# This many times its closed loop's throughput overloads the best variant.
_OVER_THE_BEST = 1.2
# At this share of it `auto` should stay with the best variant.
_CALM = 0.6
# Until the last answers are there.
_AIR_S = 0.5


@dataclass(frozen=True)
class Offer:
    """One run to come: so many requests at a rate, for `auto` or a pinned variant."""

    contender: str
    round: int
    rate_per_s: float
    requests: int
    needed_s: float


@dataclass(frozen=True)
class Contender:
    """`auto` or a pinned variant at one rate, its rounds pooled.

    `goodput_per_s` is how many pictures a second were drawn within the SLO, by completed round.
    `auto` gives quality for time: neither throughput nor p95 says whether that
    was worth it. `against` is `auto`'s goodput less this contender's; a difference, since a pinned
    variant in overload may draw nothing in time.
    """

    requests: int
    rejected: int
    failed: int
    within_slo: float
    p50_s: float | None
    goodput_per_s: Repeated
    against: Difference | None = None


@dataclass(frozen=True)
class AutoRate:
    """One offered rate. `answers` counts `auto`'s pictures by variant and by reason."""

    rate_per_s: float
    contenders: Mapping[str, Contender]
    answers: Mapping[str, Mapping[str, int]]
    void: str

    def share(self, variant: str) -> float:
        """Of `auto`'s pictures, those that a variant drew."""
        drawn = sum(sum(reasons.values()) for reasons in self.answers.values())
        return sum(self.answers.get(variant, {}).values()) / drawn if drawn else 0.0

    def outcome(self, variant: str) -> Outcome:
        """Whether `auto` brought more within the SLO than a pinned variant."""
        against = self.contenders[variant].against
        return "not decided" if self.void or against is None else against.outcome


def slo_of_auto_s(design: Design, record: Record) -> float | None:
    """The policy's own SLO, which is what it keeps; the comparison's where it has none."""
    return design.auto_slo_s or slo_s(design, record)


def offers(
    design: Design, found: Mapping[str, VariantFindings], limit_s: float
) -> list[list[Offer]]:
    """Round by round, what to offer, the lowest rate first; empty where no throughput is known.

    At each rate all contenders get the same arrivals and the same requests. The calm rate is for
    `auto` alone, once.
    """
    known = {
        name: per_s
        for name in design.auto_against
        if (per_s := found[name].images_per_s) is not None
    }
    if not known:
        return []
    best, most = next(iter(known.values())), max(known.values())
    wanted = [_OVER_THE_BEST * best]
    if most > NARROW * wanted[0]:
        wanted.append(most)
    calm = _CALM * best
    rates = sorted([*wanted, calm][: design.auto_rates])
    return [
        [
            _offer(design, name, round_, rate, limit_s, known)
            for rate in rates
            for name in rotated([AUTO] if rate == calm else [AUTO, *known], round_)
            if rate != calm or round_ == 0
        ]
        for round_ in range(design.auto_rounds)
    ]


def _offer(
    design: Design, name: str, round_: int, rate: float, limit_s: float, known: Mapping[str, float]
) -> Offer:
    requests = max(design.auto_requests, math.ceil(rate * design.auto_slos * limit_s))
    # What can't keep up answers later; `auto` has all of them to spread it over.
    needed_s = requests / min(rate, known.get(name, rate)) + _AIR_S
    return Offer(name, round_, rate, requests, needed_s)


def find_auto(design: Design, record: Record) -> list[AutoRate]:
    """Every rate that was offered, lowest first."""
    limit_s = slo_of_auto_s(design, record)
    rates = {run.rate_per_s for run in record.runs if run.section == "auto" and run.samples}
    if limit_s is None:
        return []
    return [_rate(design, record, rate, limit_s) for rate in sorted(rate for rate in rates if rate)]


def _rate(design: Design, record: Record, rate: float, limit_s: float) -> AutoRate:
    runs = {
        name: [run for run in record.of("auto", name, rate_per_s=rate) if run.duration_s]
        for name in (AUTO, *design.auto_against)
    }
    contenders = {name: _contender(each, limit_s) for name, each in runs.items() if each}
    ours = contenders[AUTO].goodput_per_s if AUTO in contenders else None
    for name, contender in contenders.items():
        if name != AUTO and ours is not None:
            against = Difference.of(ours, contender.goodput_per_s)
            contenders[name] = replace(contender, against=against)
    answers: dict[str, Counter[str]] = {}
    for run in runs[AUTO]:
        for sample in run.samples:
            if sample.outcome == "ok":
                answers.setdefault(sample.model, Counter())[sample.model_reason] += 1
    every = [sample for each in runs.values() for run in each for sample in run.samples]
    void = summarize(every, 1.0, limit_s).void
    # Plain mappings: a report is JSON.
    counted = {variant: dict(reasons) for variant, reasons in answers.items()}
    return AutoRate(rate, contenders, counted, void)


def _contender(runs: list[Run], limit_s: float) -> Contender:
    samples = [sample for run in runs for sample in run.samples]
    whole = summarize(samples, sum(run.duration_s for run in runs), limit_s)
    in_time = {
        run.round: sum(drawn_s <= limit_s for drawn_s in latencies_s(run.samples)) / run.duration_s
        for run in runs
    }
    return Contender(
        requests=whole.requests,
        rejected=whole.rejected,
        failed=whole.failed,
        within_slo=whole.within_slo or 0.0,
        p50_s=whole.p50_s,
        goodput_per_s=Repeated(in_time),
    )
