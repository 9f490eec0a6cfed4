"""How many users a load test has at each moment."""

import pytest

from loadtests.profiles import Saturation, spike, step


def test_steps_rise_evenly_to_the_peak() -> None:
    assert [step(at_s, 40, 8) for at_s in (0, 9.9, 10, 20, 39.9)] == [2, 2, 4, 6, 8]


def test_a_spike_is_the_peak_in_the_middle_fifth() -> None:
    assert [spike(at_s, 100, 8) for at_s in (0, 39, 40, 59, 60, 99)] == [2, 2, 8, 8, 2, 2]


@pytest.mark.parametrize(
    ("rates", "seen"),
    [
        # Requests answered in each level of ten seconds, and the users that were asked for.
        pytest.param([10, 20, 40, 80], [1, 2, 4, 8, None], id="grows-to-the-peak"),
        pytest.param([10, 20, 20, 20], [1, 2, 4, None], id="saturated-at-two"),
        pytest.param([10, 10, 10, 10], [1, 2, None], id="saturated-at-once"),
    ],
)
def test_saturation_doubles_users_until_throughput_no_longer_grows(
    rates: list[int], seen: list[int | None]
) -> None:
    ramp, answered, users = Saturation(duration_s=40, peak=8), 0, []
    for level in range(5):
        users.append(ramp.users(10 * level, answered))
        if users[-1] is None:
            break
        assert ramp.users(10 * level + 9, answered) == users[-1]
        answered += rates[level]
    assert users == seen
