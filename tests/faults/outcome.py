"""What a scenario found, compared with its bounds: the verdict, the table and the JSON."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from loadtests.markdown import table
from loadtests.samples import Sample, latencies_s, percentile

Verdict = Literal["holds", "broken", "not decided", "skipped"]
# Others that use more than this of all cores make every bound in seconds a matter of luck.
BUSY_SHARE = 0.1
# A request that left the generator later than this says nothing about the service's seconds.
_LATE_S = 0.25
_LATE_SHARE = 0.01
_HEAD = ["scenario", "what was done", "sent", "lost or wrong", "figures", "bounds", "verdict"]


class Skipped(Exception):
    """The scenario can't be played here; the message says why."""


@dataclass(frozen=True)
class Check:
    """A figure and its bound; `timed` where a busy machine could have caused what was found."""

    figure: str
    bound: str
    holds: bool
    timed: bool = False


def measured(figure: str) -> Check:
    return Check(figure, "measured", holds=True)


def none(what: str, found: Collection[str] | int) -> Check:
    if isinstance(found, int):
        return Check(f"{found} {what}", "0", not found)
    return Check(f"{what}: {'; '.join(found) or 'none'}", "none", not found)


def all_of(what: str, part: int, whole: int, bound: str = "all", timed: bool = False) -> Check:
    """Expect every one of at least one."""
    return Check(f"{part} of {whole} {what}", bound, 0 < part == whole, timed)


def within(what: str, took_s: float, bound_s: float, why: str = "") -> Check:
    bound = f"{bound_s:.3g} s{f': {why}' if why else ''}"
    return Check(f"{what} {took_s:.3g} s", bound, took_s <= bound_s, timed=True)


def p95_s(samples: Sequence[Sample]) -> float:
    """Of the pictures that came; infinite without any."""
    return percentile(latencies_s(samples), 95) or float("inf")


def is_lost(sample: Sample) -> bool:
    """Whether its picture didn't come, or not the right one; a 429 is neither."""
    return sample.outcome not in ("ok", "rejected")


def none_lost(samples: Sequence[Sample], allowed: int = 0) -> Check:
    """Expect every picture, or all but `allowed`; `timed` where only time limits lost them."""
    lost = [sample for sample in samples if is_lost(sample)]
    reasons = sorted({sample.reason or sample.outcome for sample in lost})
    named = f" ({'; '.join(reasons[:3])})" if lost else ""
    timed = all(
        sample.outcome in ("unsent", "unfinished")
        or sample.status in (408, 504)
        or sample.reason.startswith("TimeoutError")
        for sample in lost
    )
    return Check(f"{len(lost)} lost or wrong{named}", str(allowed), len(lost) <= allowed, timed)


@dataclass(frozen=True)
class Found:
    """What a scenario saw; `sent` and `lost` are those of `samples` unless given."""

    checks: Sequence[Check]
    samples: Sequence[Sample] = ()
    sent: int | None = None
    lost: int | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """One row of the table; `others_share` is how much of all cores other processes used."""

    scenario: str
    done: str
    verdict: Verdict
    reason: str = ""
    sent: int | None = None
    lost: int | None = None
    checks: Sequence[Check] = ()
    notes: Sequence[str] = ()
    took_s: float = 0.0
    others_share: float = 0.0


def decide(scenario: str, done: str, found: Found, took_s: float, others_share: float) -> Outcome:
    """A missed bound is broken, unless only seconds were missed, and the machine was busy."""
    missed = [check for check in found.checks if not check.holds]
    sent = [sample for sample in found.samples if sample.outcome != "unsent"]
    late = sum(sample.fired_s - sample.scheduled_s > _LATE_S for sample in sent)
    excuse = ""
    if others_share > BUSY_SHARE:
        excuse = f"others used {others_share:.0%} of the cores"
    elif late > _LATE_SHARE * len(sent):
        excuse = f"{late} of {len(sent)} requests were sent over {_LATE_S:g} s late"
    verdict: Verdict = "holds"
    reason = ""
    if missed and excuse and all(check.timed for check in missed):
        verdict, reason = "not decided", excuse
    elif missed:
        verdict = "broken"
        reason = "; ".join(f"{check.figure}, bound {check.bound}" for check in missed)
    return Outcome(
        scenario,
        done,
        verdict,
        reason,
        len(found.samples) if found.sent is None else found.sent,
        sum(map(is_lost, found.samples)) if found.lost is None else found.lost,
        found.checks,
        found.notes,
        took_s,
        others_share,
    )


def as_table(caption: str, outcomes: Sequence[Outcome]) -> str:
    """The table in Markdown, with a line for each reason and note, ending in a line break."""
    rows = [
        [
            outcome.scenario,
            outcome.done,
            *("-" if count is None else str(count) for count in (outcome.sent, outcome.lost)),
            "; ".join(check.figure for check in outcome.checks) or "-",
            "; ".join(check.bound for check in outcome.checks) or "-",
            outcome.verdict,
        ]
        for outcome in outcomes
    ]
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [
        f"- {outcome.scenario}: {line}"
        for outcome in outcomes
        for line in (outcome.reason, *outcome.notes)
        if line
    ]
    return "\n".join([table(caption, _HEAD, escaped), "", *lines]).rstrip() + "\n"


def record(path: Path, run: dict[str, str], outcomes: Sequence[Outcome]) -> None:
    """Write the outcomes into a JSON list, each in place of an earlier one of its scenario.

    `run` says what they were found with; outcomes of another `overlay` stay beside them.
    """
    rows: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    known = {(row["scenario"], row["overlay"]): row for row in rows}
    for outcome in outcomes:
        known[outcome.scenario, run["overlay"]] = {**asdict(outcome), **run}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(known.values()), indent=1) + "\n")
