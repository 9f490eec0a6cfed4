"""Carries a comparison out: warm-up, rounds, pictures, the open loop rate by rate, and `auto`.

Within each section the variants take turns, in another order each round. Every section waits for
all its answers, so that the next begins with an empty queue.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

from tqdm import tqdm

from .. import arrivals, closedloop, openloop
from ..client import Client
from ..published import CALLS, STEPS
from ..replies import AUTO, first_picture
from ..rounds import rotated
from ..samples import Sample
from .auto import Offer, offers, slo_of_auto_s
from .design import DECIDING_SAMPLES, OPEN_ROUNDS, Design, most_misses
from .endpoint import NotTheService
from .findings import find, slo_s
from .frontier import reference_setting
from .record import Record, Run, Section, Setting
from .rungs import misses
from .search import MOST_VOID, Pick, for_the_curve, for_the_search
from .sweep import Sweep

# The rounds may take this share of the time; the rest is the open loop's.
_ROUNDS_SHARE = 0.65


# Called with each sample; a closed loop adds the reply's bytes.
_Keep = Callable[..., None]


@dataclass
class Campaign:
    """One comparison under way; `record` holds what it has measured, also when it is cancelled."""

    client: Client
    design: Design
    record: Record
    planned_per_s: dict[str, float] = field(default_factory=dict)
    frontier: Sequence[Sequence[Setting]] = ()
    _single_s: dict[str, float] = field(default_factory=dict)
    _ends_s: float = 0.0
    _kept_for_auto_s: float = 0.0

    async def carry_out(self) -> None:
        """Every section, as far as the time allows.

        Raises:
            NotTheService: a variant doesn't answer its first requests as it should.
            asyncio.CancelledError: it was interrupted.
        """
        self._ends_s = self._now_s() + self.design.budget_s
        if self.design.auto_against:
            self._kept_for_auto_s = self.design.auto_share * self.design.budget_s
        await self._warm_up()
        await self._rounds()
        await self._pictures()
        await self._frontier()
        await self._check_the_plan()
        await self._rates(for_the_search, "a narrower search for the highest rate")
        await self._auto()
        # As many as there is time for: none is left out.
        await self._rates(for_the_curve)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def _left_s(self) -> float:
        return self._ends_s - self._now_s()

    @contextmanager
    def _run(
        self, section: Section, variant: str, round_: int, bar: "tqdm[NoReturn]", **load: float
    ) -> Iterator[tuple[Run, _Keep]]:
        """A run in the record, and what to call with each of its samples."""
        run = Run(section, variant, round_, **load)  # type: ignore[arg-type]  # users, rate_per_s
        self.record.runs.append(run)
        bar.set_postfix_str(f"{variant}{''.join(f' {k} {v:.3g}' for k, v in load.items())}")

        def keep(sample: Sample, content: bytes = b"", /) -> None:
            run.samples.append(sample)
            bar.update()

        yield run, keep
        # An open loop that is cancelled returns what it has.
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise asyncio.CancelledError

    async def _warm_up(self) -> None:
        """Both shapes that are measured, of every variant; the second single picture is timed."""
        design = self.design
        with _bar("warm-up", 3 * len(design.variants)) as bar:
            for variant in design.variants:
                bar.set_postfix_str(variant)
                for workload, requests in ((design.seed_workload, 1), (design.workload, 2)):
                    samples = await closedloop.run(
                        self.client, 1, requests, workload, variant, done=lambda *_: bar.update()
                    )
                    for sample in samples:
                        if sample.outcome != "ok":
                            raise NotTheService(
                                f"{variant}: not drawn when warmed up: {sample.reason}"
                            )
                self._single_s[variant] = samples[-1].latency_s

    async def _rounds(self) -> None:
        """The seed workload and every level of the closed loop, once a round."""
        design = self.design
        a_round = CALLS + sum(map(design.requests, design.users))
        with _bar("rounds", design.rounds * len(design.variants) * a_round) as bar:
            for turn in range(design.rounds):
                begun_s = self._now_s()
                for variant in rotated(design.variants, turn):
                    ask = partial(closedloop.run, self.client, variant=variant)
                    with self._run("seed workload", variant, turn, bar) as (_, keep):
                        await ask(1, CALLS, design.seed_workload, first=turn * CALLS, done=keep)
                    for users in design.users:
                        requests, first = design.requests(users), (turn * 100 + users) * 100
                        load = self._run("closed loop", variant, turn, bar, users=users)
                        with load as (_, keep):
                            await ask(users, requests, design.workload, first=first, done=keep)
                took_s, done = self._now_s() - begun_s, turn + 1
                elapsed_s = design.budget_s - self._left_s()
                if done < design.rounds and elapsed_s + took_s > _ROUNDS_SHARE * design.budget_s:
                    self._leave_out(
                        f"rounds {done + 1} to {design.rounds}: one took {took_s:.0f} s"
                    )
                    break

    async def _pictures(self) -> None:
        """The same prompts and seeds in every variant, kept to be looked at."""
        design = self.design
        needed_s = design.pictures * sum(self._single_s.values())
        count = design.pictures
        if needed_s > self._left_s() / 2:
            count = max(1, int(self._left_s() / 2 / sum(self._single_s.values())))
            self._leave_out(f"{design.pictures - count} of {design.pictures} pictures a variant")
        with _bar("pictures", count * len(design.variants)) as bar:
            for variant in design.variants:
                bar.set_postfix_str(variant)

                def keep(sample: Sample, content: bytes, variant: str = variant) -> None:
                    if sample.outcome == "ok":
                        drawn = self.record.pictures.setdefault(sample.index, {})
                        drawn[variant] = first_picture(content)
                    bar.update()

                await closedloop.run(self.client, 1, count, design.drawn, variant, done=keep)

    async def _frontier(self) -> None:
        """Its settings, within the time that it has beside the budget."""
        if not self.frontier:
            return
        design = self.design
        self._ends_s += design.frontier_s
        ends_s = min(self._ends_s, self._now_s() + design.frontier_s)
        # Once more the base setting in every level but the first.
        settings = sum(map(len, self.frontier)) + len(self.frontier) - 1
        with _bar("frontier", design.frontier_pictures * settings) as bar:

            def done(setting: Setting) -> None:
                bar.set_postfix_str(f"{setting.variant} {setting.steps} {setting.scheduler}")
                bar.update()

            await Sweep(
                self.client,
                design.drawn,
                self.record,
                self.frontier,
                reference_setting(design, self.frontier[0][0]),
                design.frontier_pictures,
                needed_s=lambda setting: (
                    self._single_s[setting.variant]
                    * setting.steps
                    / design.own_steps.get(setting.variant, STEPS)
                ),
                left_s=lambda: ends_s - self._now_s(),
                done=done,
            ).carry_out()

    async def _check_the_plan(self) -> None:
        """The rate whose p95 an earlier plan predicts, with enough requests to decide it."""
        rates = self._that_fit(self.planned_per_s, DECIDING_SAMPLES, "the plan's rate")
        if rates:
            # A limit that nothing misses: its p95 is wanted, whatever it is.
            await self._at_rates("plan", rates, DECIDING_SAMPLES, float("inf"))

    async def _rates(self, pick: Pick, what: str = "") -> None:
        """Rate by rate, each variant at the one that `pick` takes from what has been found."""
        design = self.design
        limit_s = slo_s(design, self.record)
        if limit_s is None:
            self._leave_out("the open loop: no single-user time was measured")
            return
        for _ in range(design.most_rates + MOST_VOID):
            found = find(design, self.record)
            wanted = {variant: pick(design, found[variant], limit_s) for variant in design.variants}
            rates = self._that_fit(wanted, design.samples_a_rate, what)
            if not rates:
                break
            await self._at_rates("open loop", rates, design.samples_a_rate, limit_s)

    async def _auto(self) -> None:
        """`auto` beside each pinned variant, round by round; nothing ends early."""
        self._kept_for_auto_s = 0.0
        limit_s = slo_of_auto_s(self.design, self.record)
        if not self.design.auto_against or limit_s is None:
            return
        (asked,) = await closedloop.run(self.client, 1, 1, self.design.workload, AUTO)
        if asked.outcome != "ok":
            self._leave_out(f"auto, which was not drawn: {asked.reason}")
            return
        rounds = offers(self.design, find(self.design, self.record), limit_s)
        with _bar("auto", sum(offer.requests for round_ in rounds for offer in round_)) as bar:
            for number, round_ in enumerate(rounds):
                if sum(offer.needed_s for offer in round_) > self._left_s():
                    self._leave_out(f"{len(rounds) - number} of {len(rounds)} rounds of auto")
                    return
                for offer in round_:
                    await self._offer(offer, bar)

    async def _offer(self, offer: Offer, bar: "tqdm[NoReturn]") -> None:
        """All contenders of a round get the same arrivals and requests."""
        requests, rate = offer.requests, offer.rate_per_s
        schedule_s = arrivals.poisson_of(requests, rate, seed=offer.round)
        ask = partial(openloop.run, self.client, schedule_s, self.design.workload, offer.contender)
        with self._run("auto", offer.contender, offer.round, bar, rate_per_s=rate) as (run, keep):
            await ask(first=offer.round * requests, done=keep)
            if all(sample.outcome != "unfinished" for sample in run.samples):
                run.duration_s = requests / rate

    def _that_fit(self, rates: dict[str, float], samples: int, what: str) -> dict[str, float]:
        """Those that there is time for, in the variants' order; 0 means none is wanted.

        The others are left out, and named where they are called something.
        """
        left_s, fit, too_long = self._left_s() - self._kept_for_auto_s, {}, []
        for variant, rate in rates.items():
            # With some air for the last answers.
            needed_s = samples / rate + 5 if rate else 0.0
            if needed_s > left_s:
                too_long.append(variant)
            elif rate:
                left_s -= needed_s
                fit[variant] = rate
        if too_long and what:
            self._leave_out(f"{what} of {', '.join(too_long)}")
        return fit

    async def _at_rates(
        self, section: Section, rates: dict[str, float], samples: int, limit_s: float
    ) -> None:
        """Each variant at its rate, in turns; a rate ends early once its p95 misses the limit."""
        requests = samples // OPEN_ROUNDS
        with _bar(section, OPEN_ROUNDS * requests * len(rates)) as bar:
            for round_ in range(OPEN_ROUNDS):
                for variant, rate in rates.items():
                    with self._run(section, variant, round_, bar, rate_per_s=rate) as (run, keep):
                        to_come = (OPEN_ROUNDS - round_) * requests
                        await self._fire(run, rate, requests, to_come, limit_s, keep)

    async def _fire(
        self, run: Run, rate: float, requests: int, to_come: int, limit_s: float, keep: _Keep
    ) -> None:
        """One round of an open loop; `to_come` counts this one's requests and those of the next."""
        earlier = [
            sample
            for other in self.record.of(run.section, run.variant, rate_per_s=rate)
            for sample in other.samples
        ]
        most = most_misses(len(earlier) + to_come)

        def missed() -> bool:
            return misses([*earlier, *run.samples], limit_s) > most

        await openloop.run(
            self.client,
            arrivals.poisson_of(requests, rate, seed=len(earlier)),
            self.design.workload,
            run.variant,
            first=len(earlier),
            done=keep,
            stop=missed,
        )
        run.duration_s = requests / rate
        if len(run.samples) < requests:  # It ended early.
            run.duration_s = max((sample.scheduled_s for sample in run.samples), default=0.0)

    def _leave_out(self, what: str) -> None:
        if what not in self.record.left_out:
            self.record.left_out.append(what)


def _bar(what: str, requests: int) -> "tqdm[NoReturn]":
    """A progress bar with the time left; on standard error, like every tqdm."""
    return tqdm(total=requests, desc=f"{what:>13}", unit="request", dynamic_ncols=True)
