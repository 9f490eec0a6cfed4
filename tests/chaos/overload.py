"""More than the service can draw, then no more: who is refused, and until when.

`Retry-After` is the time until the queue is short enough, if nobody else comes. While the overload
lasts others do come, so it is proved on all who were refused in its last second: they do as they
were told, among normal load.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.samples import Sample, percentile

from .load import Body, Load
from .outcome import Check, Found, none_lost
from .service import SLO_S
from .stage import Stage, now_s

_TIMES = 3.0
_NORMAL = 0.5
_RECOVERY_S = 10.0
_FACTOR = 2.0
# Retry-After counts whole seconds, and a return takes a moment to be sent and refused.
_ROUNDING_S = 1.0
# Who was refused last finds the service as it was when it was told when to come back.
_LAST_S = 1.0


@dataclass(frozen=True)
class Return:
    """A client that was refused, did as it was told, and how long it took until it was let in."""

    told_s: float
    took_s: float
    tries: int
    outcome: str

    @property
    def right(self) -> bool:
        """Let in within twice the time that it was told."""
        return self.outcome == "ok" and self.took_s <= _FACTOR * self.told_s + _ROUNDING_S


async def overload(stage: Stage) -> Found:
    """Three times the capacity, then half of it."""
    lasts_s = 20.0 if stage.quick else 120.0
    async with stage.load(_TIMES, seed=1) as flood:
        await asyncio.sleep(lasts_s)
        ended_s = now_s()
        refused = [one for one in flood.samples if one.outcome == "rejected"]
        last = [one for one in refused if flood.done_s(one) > ended_s - _LAST_S]
        returns = [asyncio.create_task(_come_back(stage, flood, one)) for one in last]
        flood.stop()
        # What is under way is still answered while normal load goes on.
        async with stage.load(_NORMAL, seed=2) as normal:
            await asyncio.sleep(15.0 if stage.quick else 30.0)
        came_back = await asyncio.gather(*returns)
    over = flood.samples
    recovery_s = _recovery_s(normal, ended_s)
    return Found(
        f"{_TIMES:g} times the capacity ({stage.capacity_per_s:.1f} requests/s) for {lasts_s:.0f} "
        f"s, then {_NORMAL:.0%} of it",
        [
            none_lost([*over, *normal.samples]),
            _only_two_statuses([*over, *normal.samples]),
            _all_told(over),
            _told_right(came_back),
            _slo(over),
            Check(f"recovery {recovery_s:.1f} s", f"< {_RECOVERY_S:g} s",
                  recovery_s < _RECOVERY_S, timed=True),
        ],
        [*over, *normal.samples],
        notes=[_shares(over), "came back as told: " + _words(came_back)],
    )  # fmt: skip


async def _come_back(stage: Stage, flood: Load, refused: Sample) -> Return:
    """Ask again as soon as one may, and again where that is refused, too."""
    began_s = flood.done_s(refused)
    asked: Body = flood.asked(refused)
    told_s = wait_s = refused.retry_after_s or 0.0
    came_s = began_s
    for tries in range(1, 6):
        await asyncio.sleep(max(0.0, came_s + wait_s - now_s()))
        came_s = now_s()
        answer = await stage.client.draw(asked)
        if answer.verdict.outcome != "rejected":
            return Return(told_s, came_s - began_s, tries, answer.verdict.outcome)
        wait_s = answer.verdict.retry_after_s or 1.0
    return Return(told_s, now_s() - began_s, tries, "rejected")


def _recovery_s(normal: Load, ended_s: float) -> float:
    """Until the last normal request that was refused, lost, or late; 0 where there was none."""
    troubled = [
        normal.fired_s(one) - ended_s
        for one in normal.samples
        if one.outcome != "ok" or one.latency_s > SLO_S
    ]
    return max([0.0, *troubled])


def _only_two_statuses(samples: Sequence[Sample]) -> Check:
    others = sorted({one.status for one in samples} - {200, 429})
    return Check(f"statuses beside 200 and 429: {others or 'none'}", "none", not others)


def _all_told(samples: Sequence[Sample]) -> Check:
    refused = [one for one in samples if one.outcome == "rejected"]
    told = [one.retry_after_s for one in refused if one.retry_after_s and one.retry_after_s >= 1]
    return Check(
        f"{len(told)} of {len(refused)} refusals with Retry-After",
        "all, and at least one",
        0 < len(refused) == len(told),
        timed=not refused,  # A capacity that was measured on a busy machine is no overload.
    )


def _told_right(returns: Sequence[Return]) -> Check:
    right = sum(one.right for one in returns)
    return Check(
        f"{right} of {len(returns)} let in as told",
        f"all, within {_FACTOR:g} times Retry-After (and {_ROUNDING_S:g} s)",
        0 < len(returns) == right,
        timed=True,
    )


def _slo(samples: Sequence[Sample]) -> Check:
    latencies = sorted(one.latency_s for one in samples if one.outcome == "ok")
    p95_s = percentile(latencies, 95) or float("inf")
    return Check(f"p95 of accepted {p95_s:.1f} s", f"SLO {SLO_S:g} s", p95_s <= SLO_S, timed=True)


def _shares(samples: Sequence[Sample]) -> str:
    drawn = sum(one.outcome == "ok" for one in samples)
    told = [one.retry_after_s or 0.0 for one in samples if one.outcome == "rejected"]
    longest = max(told, default=0.0)
    waited = sorted(one.queue_s for one in samples if one.queue_s is not None)
    return (
        f"{drawn} drawn, {len(told)} refused with Retry-After of at most {longest:.0f} s; p95 of "
        f"waiting in the replica {percentile(waited, 95) or 0:.1f} s"
    )


def _words(returns: Sequence[Return]) -> str:
    at_once = sum(one.tries == 1 for one in returns)
    longest = max((one.took_s for one in returns), default=0.0)
    return f"{at_once} of {len(returns)} at the first try, the last after {longest:.1f} s"
