import math
from collections import Counter

import pytest

from serve.routing.auto import QualityFirst, Weighted

VARIANTS = ["original", "distilled", "distilled-tiny-vae"]


def times(*seconds: float) -> dict[str, float]:
    return dict(zip(VARIANTS, seconds, strict=True))


def policy(**changes: float) -> QualityFirst:
    fields = {"slo_s": 5.0, "return_share": 0.7, "return_after_s": 10.0, **changes}
    return QualityFirst(VARIANTS, **fields)


def test_weights_share_requests_out_and_repeat_themselves() -> None:
    weighted = Weighted({"original": 6, "distilled": 1, "distilled-tiny-vae": 1})
    requests = [f"request-{index}" for index in range(4000)]
    chosen = [weighted.candidates(request) for request in requests]
    assert chosen == [weighted.candidates(request) for request in requests]
    assert weighted.decide({"distilled": 0.0}, None, 0).variant == "distilled"
    assert Counter(first for first, *_ in chosen)["original"] / 4000 == pytest.approx(
        0.75, abs=0.03
    )
    # Without that one, the others share its requests as they share their own.
    after = Counter(second for first, second, _ in chosen if first == "original")
    assert after["distilled"] / after.total() == pytest.approx(0.5, abs=0.04)


def test_a_weight_of_nothing_gets_nothing() -> None:
    weighted = Weighted({"original": 0, "distilled": 1})
    assert {weighted.candidates(str(index)) for index in range(500)} == {("distilled",)}


@pytest.mark.parametrize(
    ("finish_s", "variant", "reason"),
    [
        pytest.param((4, 3, 2), "original", "the best, in time", id="calm"),
        pytest.param((6, 4, 2), "distilled", "degraded under load", id="busy"),
        pytest.param((9, 8, 4), "distilled-tiny-vae", "degraded under load", id="very-busy"),
        pytest.param((9, 7, 8), "distilled", "none in time, the fastest", id="too-busy"),
        pytest.param((math.inf, 4, 2), "distilled", "degraded under load", id="cannot-answer"),
    ],
)
def test_the_best_variant_that_is_in_time_answers_else_the_fastest(
    finish_s: tuple[float, ...], variant: str, reason: str
) -> None:
    decision = policy().decide(times(*finish_s), None, now=0)
    assert (decision.variant, decision.reason) == (variant, reason)


def test_it_comes_back_only_when_it_has_been_well_in_time_for_long() -> None:
    rule = policy()
    assert rule.decide(times(6, 4, 2), None, 0).variant == "distilled"
    # In time, but not well: 3.5 s are.
    assert rule.decide(times(4, 3, 2), None, 100).variant == "distilled"
    assert rule.decide(times(3, 3, 2), None, 200).variant == "distilled"
    assert rule.decide(times(3, 3, 2), None, 209).variant == "distilled"
    assert rule.decide(times(3, 3, 2), None, 211).variant == "original"


def test_a_bad_moment_starts_the_wait_again() -> None:
    rule = policy()
    rule.decide(times(6, 4, 2), None, 0)
    rule.decide(times(3, 3, 2), None, 1)
    rule.decide(times(4.5, 3, 2), None, 10)
    assert rule.decide(times(3, 3, 2), None, 12).variant == "distilled"
    assert rule.decide(times(3, 3, 2), None, 23).variant == "original"


def test_it_comes_back_one_variant_at_a_time() -> None:
    rule = policy()
    assert rule.decide(times(9, 8, 4), None, 0).variant == "distilled-tiny-vae"
    rule.decide(times(1, 1, 1), None, 1)
    assert rule.decide(times(1, 1, 1), None, 12).variant == "distilled"
    rule.decide(times(1, 1, 1), None, 13)
    assert rule.decide(times(1, 1, 1), None, 24).variant == "original"


def test_a_short_deadline_takes_nobody_else_along() -> None:
    rule = policy()
    decision = rule.decide(times(4, 3, 2), deadline_s=3.5, now=0)
    assert (decision.variant, decision.reason) == ("distilled", "the best for its deadline")
    assert rule.decide(times(4, 3, 2), None, 1).variant == "original"


def test_requests_that_some_variants_do_not_allow_bring_it_back_up_all_the_same() -> None:
    rule = policy()
    assert rule.decide(times(9, 1, 0.5), None, 0).variant == "distilled"
    allowed = {"original": 1.0, "distilled": 0.5}
    rule.decide(allowed, None, 1)
    assert rule.decide(allowed, None, 12).variant == "original"
    # What lies between is skipped where a request doesn't allow it.
    rule.decide(times(9, 8, 4), None, 13)
    outer = {"original": 1.0, "distilled-tiny-vae": 0.5}
    rule.decide(outer, None, 14)
    assert rule.decide(outer, None, 25).variant == "original"


def test_where_no_replica_answers_nothing_moves() -> None:
    rule = policy()
    rule.decide(times(math.inf, math.inf, math.inf), None, 0)
    assert rule.decide(times(1, 1, 1), None, 1).variant == "original"


def test_a_request_that_some_variants_do_not_allow_goes_to_the_best_of_the_others() -> None:
    rule = policy()
    only = {"distilled-tiny-vae": 1.0}
    decision = rule.decide(only, None, 0)
    assert (decision.variant, decision.reason) == (
        "distilled-tiny-vae",
        "the best that the request allows",
    )
    # It degrades nobody else's.
    assert rule.decide(times(4, 3, 2), None, 1).variant == "original"
    # Under load the better variants are still there for those who can have no other.
    assert rule.decide(times(9, 8, 4), None, 2).variant == "distilled-tiny-vae"
    assert rule.decide({"original": 4.0, "distilled": 3.0}, None, 3).variant == "original"
    assert rule.decide({"original": 9.0, "distilled": 8.0}, None, 4).reason == (
        "none in time, the fastest"
    )
