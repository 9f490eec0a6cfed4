"""What a scenario found, held to its bounds: the verdict, the table and the JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from loadtests.markdown import table
from loadtests.samples import Sample

Word = Literal["holds", "broken", "not decided"]
# Others that take more than this of all cores make every bound in seconds a matter of luck.
MOST_OTHERS = 0.1
# A request that left the generator later than this says nothing of the service's seconds.
_LATE_S = 0.25
_MOST_LATE = 0.01
_HEAD = ["scenario", "what was done", "sent", "lost or wrong", "figures", "bound", "verdict"]


class NotMet(Exception):
    """The scenario can't go on, as something it needs didn't happen; the message says what."""


class Undecided(Exception):
    """The scenario can't be played here; the message says why."""


@dataclass(frozen=True)
class Check:
    """A figure and its bound; `timed` where a busy machine could have caused what was found."""

    figure: str
    bound: str
    holds: bool
    timed: bool = False


@dataclass(frozen=True)
class Found:
    """What a scenario did and saw. `lost` counts what failed, and pictures that were wrong."""

    done: str
    checks: Sequence[Check]
    samples: Sequence[Sample] = ()
    sent: int | None = None
    lost: int | None = None
    notes: Sequence[str] = ()

    @property
    def late(self) -> float:
        """The share of requests that the generator fired late."""
        sent = [one for one in self.samples if one.outcome != "unsent"]
        return sum(one.fired_s - one.scheduled_s > _LATE_S for one in sent) / max(1, len(sent))


@dataclass(frozen=True)
class Outcome:
    """One row of the table."""

    scenario: str
    done: str
    verdict: Word
    reason: str = ""
    sent: int | None = None
    lost: int | None = None
    checks: Sequence[Check] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    took_s: float = 0.0
    others: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def decide(scenario: str, found: Found, took_s: float, others: float) -> Outcome:
    """A broken bound is broken, unless only seconds are, and the machine was busy."""
    missed = [check for check in found.checks if not check.holds]
    excuse = ""
    if others > MOST_OTHERS:
        excuse = f"others took {others:.0%} of the cores"
    elif found.late > _MOST_LATE:
        excuse = f"{found.late:.0%} of the requests were fired over {_LATE_S:g} s late"
    verdict: Word = "holds"
    reason = ""
    if any(not check.timed for check in missed) or (missed and not excuse):
        verdict = "broken"
        reason = "; ".join(f"{one.figure}, bound {one.bound}" for one in missed)
    elif missed:
        verdict, reason = "not decided", excuse
    samples = list(found.samples)
    sent = len(samples) if found.sent is None else found.sent
    lost = sum(lost_or_wrong(one) for one in samples) if found.lost is None else found.lost
    return Outcome(
        scenario, found.done, verdict, reason, sent, lost, found.checks, found.notes, took_s, others
    )


def lost_or_wrong(sample: Sample) -> bool:
    """Whether its picture didn't come, or not the right one. A 429 is neither."""
    return sample.outcome not in ("ok", "rejected")


def none_lost(samples: Sequence[Sample], but: int = 0) -> Check:
    """Expect every picture, or all `but` so many; `timed` where only time limits lost them."""
    lost = [one for one in samples if lost_or_wrong(one)]
    reasons = sorted({one.reason or one.outcome for one in lost})
    told = f" ({'; '.join(reasons[:3])})" if lost else ""
    timed = all(one.outcome in ("unsent", "unfinished") or _out_of_time(one) for one in lost)
    return Check(f"{len(lost)} lost or wrong{told}", str(but), len(lost) <= but, timed=timed)


def _out_of_time(sample: Sample) -> bool:
    return sample.status in (408, 504) or sample.reason.startswith("TimeoutError")


def as_table(caption: str, outcomes: Sequence[Outcome]) -> str:
    """The table in Markdown, with a line for each reason and note, ending in a line break."""
    rows = [
        [
            one.scenario,
            one.done,
            "-" if one.sent is None else str(one.sent),
            "-" if one.lost is None else str(one.lost),
            "; ".join(check.figure for check in one.checks) or "-",
            "; ".join(check.bound for check in one.checks) or "-",
            one.verdict + (f": {one.reason}" if one.verdict == "not decided" else ""),
        ]
        for one in outcomes
    ]
    escaped = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    lines = [f"- {one.scenario}: {note}" for one in outcomes for note in one.notes]
    lines += [f"- {one.scenario}: {one.reason}" for one in outcomes if one.verdict == "broken"]
    return "\n".join([table(caption, _HEAD, escaped), "", *lines]).rstrip() + "\n"
