"""More than the service can draw, then no more: what is refused, and until when.

`Retry-After` is the time until the queue is short enough, if nobody else comes. While the overload
lasts others do come, so it is tested on all clients that were refused in its last second: they come
back after that time, among normal load.
"""

import asyncio
from dataclasses import dataclass

from loadtests.samples import Sample, percentile

from ..load import Load
from ..local import SLO_S, LocalStage
from ..outcome import Found, all_of, none, none_lost, p95_s, within
from ..stage import now_s

_TIMES = 3.0
_NORMAL = 0.5
_RECOVERY_S = 10.0
_FACTOR = 2.0
# Retry-After counts whole seconds, and a return takes a moment to be sent and refused.
_ROUNDING_S = 1.0
# Clients that are refused last find the service as it was when they were told when to come back.
_LAST_S = 1.0


@dataclass(frozen=True)
class Return:
    """A client that was refused and came back after `wait_s`, and how long until it was let in."""

    wait_s: float
    took_s: float
    tries: int
    outcome: str

    @property
    def in_time(self) -> bool:
        """Whether it was let in within twice the time that it was given."""
        return self.outcome == "ok" and self.took_s <= _FACTOR * self.wait_s + _ROUNDING_S


async def overload(stage: LocalStage) -> Found:
    """Three times the capacity, then half of it."""
    lasts_s = 20.0 if stage.quick else 120.0
    async with stage.load(_TIMES, seed=1) as flood:
        await asyncio.sleep(lasts_s)
        ended_s = now_s()
        returning = [
            asyncio.create_task(_come_back(stage, flood, sample))
            for sample in flood.samples
            if sample.outcome == "rejected" and flood.done_s(sample) > ended_s - _LAST_S
        ]
        flood.stop()
        # What is under way is still answered while normal load goes on.
        async with stage.load(_NORMAL, seed=2) as normal:
            await asyncio.sleep(15.0 if stage.quick else 30.0)
        returns = await asyncio.gather(*returning)
    samples = [*flood.samples, *normal.samples]
    # The last normal request that was refused, lost, or late.
    troubled_s = [
        normal.fired_s(sample) - ended_s
        for sample in normal.samples
        if sample.outcome != "ok" or sample.latency_s > SLO_S
    ]
    waits_s = [one.retry_after_s or 0.0 for one in flood.samples if one.outcome == "rejected"]
    in_time = sum(back.in_time for back in returns)
    at_once = sum(back.tries == 1 for back in returns)
    drawn = flood.count(lambda sample: sample.outcome == "ok")
    queued_s = sorted(one.queue_s for one in flood.samples if one.queue_s is not None)
    bound = f"all, within {_FACTOR:g} times Retry-After (and {_ROUNDING_S:g} s)"
    return Found(
        [
            none_lost(samples),
            none(
                "statuses beside 200 and 429",
                sorted({str(sample.status) for sample in samples} - {"200", "429"}),
            ),
            # A capacity that was measured on a busy machine is no overload.
            all_of(
                "refusals with Retry-After",
                sum(wait_s >= 1 for wait_s in waits_s),
                len(waits_s),
                timed=not waits_s,
            ),
            all_of("let in as told", in_time, len(returns), bound, timed=True),
            within("p95 of accepted", p95_s(flood.samples), SLO_S),
            within("recovery", max([0.0, *troubled_s]), _RECOVERY_S),
        ],
        samples,
        notes=[
            f"{lasts_s:.0f} s of three times {stage.full_rate_per_s:.1f} requests/s",
            f"{drawn} drawn; Retry-After {max(waits_s, default=0.0):.0f} s at most; p95 "
            f"of waiting in the replica {percentile(queued_s, 95) or 0:.1f} s",
            f"came back as told: {at_once} of {len(returns)} at the first try, the last after "
            f"{max((back.took_s for back in returns), default=0.0):.1f} s",
        ],
    )


async def _come_back(stage: LocalStage, flood: Load, refused: Sample) -> Return:
    """Ask again as soon as allowed, and again where that is refused, too."""
    began_s = came_s = flood.done_s(refused)
    first_wait_s = wait_s = refused.retry_after_s or 0.0
    tries = 0
    while tries < 5:
        tries += 1
        await asyncio.sleep(max(0.0, came_s + wait_s - now_s()))
        came_s = now_s()
        verdict = (await stage.client.draw(flood.asked(refused))).verdict
        if verdict.outcome != "rejected":
            break
        wait_s = verdict.retry_after_s or 1.0
    return Return(first_wait_s, came_s - began_s, tries, verdict.outcome)
