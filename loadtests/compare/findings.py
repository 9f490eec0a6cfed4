"""A record's figures: pure arithmetic, with what is decided and what is a tie."""

import itertools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..published import CALLS
from ..samples import latencies_s
from .design import NARROW, Design
from .ratios import Outcome, Ratio, Repeated
from .record import Record
from .rungs import Carried, Rung, capacity_per_s, carried, decided_p95, rungs_of


@dataclass(frozen=True)
class ClosedLevel:
    """So many users: throughput and latency, rounds pooled."""

    users: int
    images_per_s: Repeated
    requests: int
    p50_s: float
    generations_p50_s: float | None
    edits_p50_s: float | None
    p95_s: float | None
    rejected: int
    failed: int


@dataclass(frozen=True)
class VariantFindings:
    """Everything that was found of one variant; None is what wasn't measured."""

    seed_workload_s: Repeated | None
    single_s: Repeated | None
    closed: tuple[ClosedLevel, ...]
    rungs: tuple[Rung, ...]
    carried: Carried

    @property
    def best(self) -> ClosedLevel | None:
        """The level with the highest throughput."""
        return max(self.closed, key=lambda level: level.images_per_s.median, default=None)

    @property
    def images_per_s(self) -> float | None:
        """The highest throughput of the closed loop."""
        return None if self.best is None else self.best.images_per_s.median


def slo_s(design: Design, record: Record) -> float | None:
    """The latency that 95 % of requests should keep; None before the single user is measured."""
    if design.slo_s is not None:
        return design.slo_s
    single = _single(record, design.variants[0])
    return None if single is None else design.slo_factor * single.median


def find(design: Design, record: Record) -> dict[str, VariantFindings]:
    """The figures of every variant."""
    limit_s = slo_s(design, record)
    return {variant: _of_variant(design, record, variant, limit_s) for variant in design.variants}


def _of_variant(
    design: Design, record: Record, variant: str, limit_s: float | None
) -> VariantFindings:
    seed = {
        run.round: max(sample.done_s for sample in run.samples)
        for run in record.of("seed workload", variant)
        if len(latencies_s(run.samples)) == CALLS
    }
    closed = [_closed_level(record, variant, users) for users in design.users]
    rungs = [] if limit_s is None else rungs_of(design, record, variant, limit_s)
    found = VariantFindings(
        seed_workload_s=Repeated(seed) if seed else None,
        single_s=_single(record, variant),
        closed=tuple(level for level in closed if level is not None),
        rungs=tuple(rungs),
        carried=Carried(None, None),
    )
    return replace(found, carried=carried(rungs, capacity_per_s(found.images_per_s, rungs)))


def _single(record: Record, variant: str) -> Repeated | None:
    """The median latency of one user's generations, by round; of edits, where all were edits."""
    for edits in (False, True):
        medians = {
            run.round: statistics.median(drawn_s)
            for run in record.of("closed loop", variant, users=1)
            if (drawn_s := latencies_s(run.samples, edits=edits))
        }
        if medians:
            return Repeated(medians)
    return None


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _closed_level(record: Record, variant: str, users: int) -> ClosedLevel | None:
    runs = list(record.of("closed loop", variant, users=users))
    images_per_s = {
        run.round: len(drawn_s) / max(sample.done_s for sample in run.samples)
        for run in runs
        if (drawn_s := latencies_s(run.samples))
    }
    if not images_per_s:
        return None
    samples = [sample for run in runs if run.round in images_per_s for sample in run.samples]
    outcomes = Counter(sample.outcome for sample in samples)
    return ClosedLevel(
        users=users,
        images_per_s=Repeated(images_per_s),
        requests=len(samples),
        p50_s=statistics.median(latencies_s(samples)),
        generations_p50_s=_median(latencies_s(samples, edits=False)),
        edits_p50_s=_median(latencies_s(samples, edits=True)),
        p95_s=decided_p95(latencies_s(samples)),
        rejected=outcomes["rejected"],
        failed=outcomes["failed"],
    )


@dataclass(frozen=True)
class Comparison:
    """One variant against another; a ratio over 1 means that `variant` is better."""

    variant: str
    against: str
    throughput: Ratio | None
    single: Ratio | None
    seed_workload: Ratio | None
    carried: Outcome
    carried_ratio: float | None


def compare(found: Mapping[str, VariantFindings]) -> list[Comparison]:
    """Every variant against the first, then each of the others against the one before it."""
    names = list(found)
    pairs = [(name, names[0]) for name in names[1:]]
    pairs += [(after, before) for before, after in itertools.pairwise(names[1:])]
    return [_compare(found, variant, against) for variant, against in pairs]


def _compare(found: Mapping[str, VariantFindings], variant: str, against: str) -> Comparison:
    ours, theirs = found[variant], found[against]
    throughput = None
    if ours.best is not None and theirs.best is not None:
        throughput = Ratio.of(ours.best.images_per_s, theirs.best.images_per_s)
    ratio = None
    if ours.carried.met_per_s and theirs.carried.met_per_s:
        ratio = ours.carried.met_per_s / theirs.carried.met_per_s
    return Comparison(
        variant=variant,
        against=against,
        seed_workload=_faster(ours.seed_workload_s, theirs.seed_workload_s),
        single=_faster(ours.single_s, theirs.single_s),
        throughput=throughput,
        carried=carries_more(ours.carried, theirs.carried),
        carried_ratio=ratio,
    )


def _faster(ours: Repeated | None, theirs: Repeated | None) -> Ratio | None:
    return None if ours is None or theirs is None else Ratio.of(theirs, ours)


def carries_more(ours: Carried, theirs: Carried) -> Outcome:
    """Beyond the search's own width: a rate close to the limit meets it or misses it by chance."""
    if ours.met_per_s and theirs.missed_per_s and ours.met_per_s >= NARROW * theirs.missed_per_s:
        return "better"
    if theirs.met_per_s and ours.missed_per_s and theirs.met_per_s >= NARROW * ours.missed_per_s:
        return "worse"
    bracketed = all((ours.met_per_s, ours.missed_per_s, theirs.met_per_s, theirs.missed_per_s))
    return "tie" if bracketed else "not decided"
