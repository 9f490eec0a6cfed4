"""Which variant answers for `model: "auto"`: pure rules, over forecasts that others make."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


@dataclass(frozen=True, slots=True)
class Decision:
    """The variant that is going to draw, and why, in words for the client and for metrics."""

    variant: str
    reason: str


class _PolicyModel(BaseModel):
    """What a configuration may say about `auto`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class WeightedPolicy(_PolicyModel):
    """Shares, for an A/B test: `{kind: weighted, weights: {original: 9, distilled: 1}}`."""

    kind: Literal["weighted"]
    weights: dict[str, Annotated[float, Field(ge=0, le=1e9)]] = Field(
        min_length=1, description="of each variant, of any sum over 0"
    )

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if not sum(self.weights.values()):
            raise ValueError("weights: all are 0; one at least must be more")
        return self

    @property
    def named(self) -> Sequence[str]:
        """The variants that it speaks of."""
        return tuple(self.weights)


class QualityFirstPolicy(_PolicyModel):
    """The best variant that is in time: `{kind: quality-first, slo_s: 5}`."""

    kind: Literal["quality-first"]
    slo_s: float = Field(gt=0, description="seconds that a request should take at most")
    variants: tuple[str, ...] = Field(
        (), description="best first; when empty all that are served, by the work of a picture"
    )
    return_share: float = Field(
        0.7, gt=0, le=1, description="of slo_s: what a better variant must keep before it is back"
    )
    return_after_s: float = Field(10, ge=0, description="and for how long")

    @property
    def named(self) -> Sequence[str]:
        """The variants that it speaks of."""
        return self.variants


AutoPolicy = Annotated[WeightedPolicy | QualityFirstPolicy, Field(discriminator="kind")]


class Rule(Protocol):
    """Decides for one request after another."""

    by_forecast: ClassVar[bool]
    """Whether `decide` needs to know what each candidate is expected to take."""

    def candidates(self, request_id: str) -> Sequence[str]:
        """The variants that `decide` may choose for a request, the first before the others."""

    def decide(
        self, finish_s: Mapping[str, float], deadline_s: float | None, now: float
    ) -> Decision:
        """Decide for a request with what each candidate is expected to take.

        Args:
            finish_s: seconds until the request's last picture, by variant; infinite where none can
                answer. Variants that don't allow what the request asks for are left out. Without
                `by_forecast` only the first candidate that takes requests, and 0.
            deadline_s: the request's own, in seconds from now.
            now: a clock in seconds that never goes back.
        """


class Weighted:
    """Shares requests out by weights: the same request id always gets the same variant.

    Where that has no replica, the requests are shared out among the others, by their weights.
    """

    by_forecast: ClassVar[bool] = False

    def __init__(self, weights: Mapping[str, float]) -> None:
        self._weights = weights

    def candidates(self, request_id: str) -> Sequence[str]:
        """All with a weight, in an order by the request's id: a repeated one gets the same."""

        def race(variant: str) -> float:
            # Exponential times at a variant's rate: it is first by its share, and when it is left
            # out, each of the others by theirs (Efraimidis and Spirakis, 2006).
            digest = hashlib.sha256(f"{variant} {request_id}".encode()).digest()
            uniform = (int.from_bytes(digest[:8], "big") + 1) / 2**64  # Never 0.
            return -math.log(uniform) / self._weights[variant]

        return tuple(sorted((name for name, weight in self._weights.items() if weight), key=race))

    def decide(
        self, finish_s: Mapping[str, float], deadline_s: float | None, now: float
    ) -> Decision:
        """The only candidate."""
        (variant,) = finish_s
        return Decision(variant, "weight")


class QualityFirst:
    """The best variant that is in time; under load a cheaper one, and back with hysteresis.

    It goes down as soon as the present variant would be late, and up one variant once that one
    has been well in time, at `return_share` of the limit, for `return_after_s`. A request whose own
    deadline is shorter may go further down without taking the others along.
    """

    by_forecast: ClassVar[bool] = True

    def __init__(
        self, variants: Sequence[str], slo_s: float, return_share: float, return_after_s: float
    ) -> None:
        self.variants = tuple(variants)
        self._slo_s = slo_s
        self._return_share = return_share
        self._return_after_s = return_after_s
        self._level = 0
        self._well_since: float | None = None

    def candidates(self, request_id: str) -> Sequence[str]:
        """All of them."""
        return self.variants

    def decide(
        self, finish_s: Mapping[str, float], deadline_s: float | None, now: float
    ) -> Decision:
        """The best in time, as the class says."""
        self._follow(finish_s, now)
        limit_s = self._slo_s if deadline_s is None else min(self._slo_s, deadline_s)
        now_used = [variant for variant in self.variants[self._level :] if variant in finish_s]
        for variant in now_used or [name for name in self.variants if name in finish_s]:
            if finish_s[variant] <= limit_s:
                return Decision(variant, self._why(variant, finish_s))
        # None is in time: the fastest is the least late.
        fastest = min(finish_s, key=lambda variant: finish_s[variant])
        return Decision(fastest, "none in time, the fastest")

    def _follow(self, finish_s: Mapping[str, float], now: float) -> None:
        """Move the level by the SLO, over the variants that the request allows.

        Of the others nothing is known: a request that the present one doesn't allow takes nobody
        down, and one that allows a better one brings all back up to it.
        """
        allowed = [level for level, name in enumerate(self.variants) if name in finish_s]
        if all(finish_s[self.variants[level]] == math.inf for level in allowed):
            return  # No replica answers, so that it isn't a matter of speed.
        below = [level for level in allowed if level > self._level]
        while below and finish_s.get(self.variants[self._level], 0.0) > self._slo_s:
            self._level = below.pop(0)
            self._well_since = None
        above = [level for level in allowed if level < self._level]
        if not above:
            return
        if finish_s[self.variants[above[-1]]] > self._return_share * self._slo_s:
            self._well_since = None
        elif self._well_since is None:
            self._well_since = now
        elif now - self._well_since >= self._return_after_s:
            self._level = above[-1]
            self._well_since = None

    def _why(self, variant: str, finish_s: Mapping[str, float]) -> str:
        if variant == self.variants[0]:
            return "the best, in time"
        if variant == next(iter(finish_s)):
            return "the best that the request allows"
        if variant == self.variants[self._level]:
            return "degraded under load"
        return "the best for its deadline"


def rule_of(policy: AutoPolicy, served: Sequence[str]) -> Rule:
    """The rule that a policy describes; `served` are the variants, best first."""
    if isinstance(policy, WeightedPolicy):
        return Weighted(policy.weights)
    return QualityFirst(
        policy.variants or served, policy.slo_s, policy.return_share, policy.return_after_s
    )
