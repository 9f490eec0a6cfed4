"""What a comparison measures, how often, and for how long at most."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..published import IMAGES_A_CALL, PROMPT
from ..workload import Workload

# A p95 from fewer is not decided.
DECIDING_SAMPLES = 100
# The search ends when the lowest rate that missed is within this factor of the highest that met:
# a p95 from 100 requests doesn't know the rate any better.
NARROW = 1.15
# A rate's arrivals are drawn in rounds, so that variants take turns at a rate, too.
OPEN_ROUNDS = 2


@dataclass(frozen=True)
class Design:
    """The experiment. The first variant is the reference for the others.

    `slo_s` None means `slo_factor` times the reference's single-user time. `samples_a_rate` is how
    many requests each rate of the open loop gets, at most `most_rates` rates a variant. `budget_s`
    bounds the whole: what doesn't fit is left out and named. `own_steps` are what a variant draws
    in where a request names none, `most_steps` what it allows.

    `auto_against` are the pinned variants that `auto` is compared with, the best first; none where
    `auto` isn't to be measured. `auto_slo_s` is its policy's; None means the comparison's. Each of
    `auto_rates` offered rates is run `auto_rounds` times, with `auto_requests` requests at least
    and for `auto_slos` times the SLO, so that a queue can grow beyond it and the policy can answer.
    The search leaves `auto_share` of the budget to it.

    `frontier_steps` are those of the frontier's settings; without any there is no frontier. Each
    variant is drawn with its own default scheduler and dpm++, or with `frontier_schedulers`, and in
    each setting `frontier_pictures`. `frontier_s` is its time, beside `budget_s`.
    """

    variants: tuple[str, ...]
    workload: Workload
    users: tuple[int, ...] = (1, 2, 4, 8)
    rounds: int = 4
    requests_a_user: int = 2
    samples_a_rate: int = DECIDING_SAMPLES
    most_rates: int = 6
    pictures: int = 12
    slo_s: float | None = None
    slo_factor: float = 3.0
    most_rejected: float = 0.01
    budget_s: float = 18 * 60.0
    own_steps: Mapping[str, int] = field(default_factory=dict)
    most_steps: Mapping[str, int] = field(default_factory=dict)
    auto_against: tuple[str, ...] = ()
    auto_slo_s: float | None = None
    auto_rates: int = 3
    auto_rounds: int = 3
    auto_requests: int = 20
    auto_slos: float = 5.0
    auto_share: float = 0.3
    frontier_steps: tuple[int, ...] = ()
    frontier_schedulers: tuple[str, ...] = ()
    frontier_pictures: int = 24
    frontier_s: float = 8 * 60.0

    def quick(self) -> "Design":
        """The same in a fifth of the time; no p95 is decided, and nothing of `auto`."""
        return replace(
            self,
            users=(1, 4),
            rounds=3,
            samples_a_rate=16,
            most_rates=1,
            pictures=4,
            budget_s=200.0,
            auto_rates=1,
            auto_rounds=1,
            auto_requests=10,
            auto_slos=3.0,
            auto_share=0.18,
            frontier_pictures=12,
            frontier_s=180.0,
        )

    @property
    def whole_s(self) -> float:
        """What the comparison takes at most."""
        return self.budget_s + (self.frontier_s if self.frontier_steps else 0.0)

    def within(self, seconds: float) -> "Design":
        """The same with another bound for the whole; every section keeps its share."""
        scale = seconds / self.whole_s
        return replace(self, budget_s=scale * self.budget_s, frontier_s=scale * self.frontier_s)

    @property
    def seed_workload(self) -> Workload:
        """The published one: 4 images a call, in each variant's own number of steps (25)."""
        return replace(self.drawn, prompts=(PROMPT,), n=IMAGES_A_CALL, num_inference_steps=())

    @property
    def drawn(self) -> Workload:
        """The same without edits, whose pictures can't be compared by prompt."""
        return replace(self.workload, edits=0.0)

    def requests(self, users: int) -> int:
        """How many requests that many users share in one round."""
        return self.requests_a_user * max(users, 2)


def most_misses(requests: int) -> int:
    """With more requests than this outside the SLO, the p95 of so many misses it."""
    return max(requests, DECIDING_SAMPLES) // 20
