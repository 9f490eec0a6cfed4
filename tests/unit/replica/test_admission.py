import pytest

from serve.replica.admission import Returns, refusal, retry_after_s
from serve.replica.options import ReplicaOptions

LIMITS = ReplicaOptions(max_queue_s=30, max_queued_requests=8)


@pytest.mark.parametrize(
    ("start_s", "waiting"),
    [
        pytest.param(0, 0, id="idle"),
        pytest.param(29.9, 7, id="just-within"),
        pytest.param(0, 8, id="a-free-slot-whoever-waits"),
    ],
)
def test_a_request_within_the_limits_is_welcome(start_s: float, waiting: int) -> None:
    assert refusal(start_s, waiting, LIMITS, 0, draw=0.5) is None


def test_a_queue_too_long_in_seconds_says_when_it_will_be_short_enough() -> None:
    refused = refusal(42.5, 2, LIMITS, 0, draw=0)
    assert refused is not None
    assert refused.retry_after_s == 13
    assert "42.5 s" in refused.reason
    assert "30 s are allowed" in refused.reason


def test_a_queue_too_long_in_requests_says_when_one_will_have_begun() -> None:
    refused = refusal(18, 8, LIMITS, 0, draw=0)
    assert refused is not None
    assert refused.retry_after_s == 2
    assert "8 requests wait already; at most 8" in refused.reason


@pytest.mark.parametrize("draw", [0.0, 1.0])
def test_who_is_refused_together_is_let_in_as_told(draw: float) -> None:
    """A queue that is full, twenty who are refused within a second, and nobody else."""
    limits, work_s = ReplicaOptions(max_queue_s=4, max_queued_requests=100), 0.19
    queue_s, returns, due = 4.0 + work_s, Returns(), []
    for _ in range(20):
        refused = refusal(queue_s, 0, limits, returns.work_s(0.0), draw)
        assert refused is not None
        returns.expect(refused.retry_after_s, work_s)
        due.append(refused.retry_after_s)
    now = 0.0
    for due_s in sorted(due):
        queue_s -= due_s - now
        now = due_s
        assert refusal(queue_s, 0, limits, returns.work_s(now), draw) is None
        queue_s += work_s
    assert max(due) <= 2 * 20 * work_s  # Nor are they told to wait for longer than they must.


def test_a_long_overload_tells_at_most_two_queues_more() -> None:
    limits, returns = ReplicaOptions(max_queue_s=4, max_queued_requests=100), Returns()
    for _ in range(1000):
        refused = refusal(4.5, 0, limits, returns.work_s(0.0), 0)
        assert refused is not None
        returns.expect(refused.retry_after_s, 0.2)
    assert refused.retry_after_s == 9  # What is too long, two queues of 4 s, rounded up.


def test_who_is_due_is_expected_no_longer() -> None:
    returns = Returns()
    returns.expect(12.0, 3.0)
    returns.expect(11.0, 0.1)
    assert returns.work_s(10.9) == pytest.approx(3.1)
    assert returns.work_s(11.0) == pytest.approx(3.0)
    assert returns.work_s(12.0) == 0


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
