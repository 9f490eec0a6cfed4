import pytest

from serve.admission import Limits, refusal, retry_after_s

LIMITS = Limits(queue_s=30, queue_requests=8)


@pytest.mark.parametrize(
    ("start_s", "waiting"),
    [
        pytest.param(0, 0, id="idle"),
        pytest.param(29.9, 7, id="just-within"),
        pytest.param(0, 8, id="a-free-slot-whoever-waits"),
    ],
)
def test_a_request_within_the_limits_is_welcome(start_s: float, waiting: int) -> None:
    assert refusal(start_s, waiting, LIMITS, draw=0.5) is None


def test_a_queue_too_long_in_seconds_says_when_it_will_be_short_enough() -> None:
    refused = refusal(42.5, 2, LIMITS, draw=0)
    assert refused is not None
    assert refused.retry_after_s == 13
    assert "42.5 s" in refused.reason
    assert "30 s are allowed" in refused.reason


def test_a_queue_too_long_in_requests_says_when_one_will_have_begun() -> None:
    refused = refusal(18, 8, LIMITS, draw=0)
    assert refused is not None
    assert refused.retry_after_s == 2
    assert "8 requests wait already; at most 8" in refused.reason


@pytest.mark.parametrize(
    ("wait_s", "draw", "seconds"),
    [
        pytest.param(0.01, 0, 1, id="at-least-a-second"),
        pytest.param(9.1, 0, 10, id="rounded-up"),
        pytest.param(8, 1, 10, id="a-quarter-more-at-most"),
        pytest.param(10_000, 0.3, 600, id="at-most-ten-minutes"),
    ],
)
def test_retry_after_is_rounded_up_spread_and_bounded(
    wait_s: float, draw: float, seconds: int
) -> None:
    assert retry_after_s(wait_s, draw) == seconds
