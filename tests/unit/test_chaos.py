"""The pure parts of `make chaos`: what makes a verdict, and that a wrong picture is seen."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from loadtests.samples import Sample
from tests.chaos import load, machine, metrics, outcome, overload
from tests.chaos.load import Checked, checked, difference, mixed
from tests.chaos.machine import Held, growth, others_share, role_of
from tests.chaos.outcome import Check, Found, Outcome, as_table, decide
from tests.chaos.scenarios import SCENARIOS
from tests.fake_service import FakeService, serving

OK = Sample(0, "mixed", 4, scheduled_s=0.0, fired_s=0.0, done_s=1.0, status=200, outcome="ok")
FAST = Check("p95 1 s", "2 s", True, timed=True)
SLOW = Check("p95 3 s", "2 s", False, timed=True)
WRONG = Check("1 wrong", "0", False)


@pytest.mark.parametrize(
    ("checks", "others", "late_s", "verdict"),
    [
        pytest.param([FAST], 0.0, 0.0, "holds", id="all-within"),
        pytest.param([FAST], 0.9, 9.0, "holds", id="within-although-busy"),
        pytest.param([FAST, SLOW], 0.0, 0.0, "broken", id="slow"),
        pytest.param([FAST, SLOW], 0.5, 0.0, "not decided", id="slow-while-others-compute"),
        pytest.param([FAST, SLOW], 0.0, 1.0, "not decided", id="slow-and-fired-late"),
        pytest.param([SLOW, WRONG], 0.5, 1.0, "broken", id="no-excuse-for-what-is-wrong"),
    ],
)
def test_only_seconds_are_excused_by_a_busy_machine(
    checks: list[Check], others: float, late_s: float, verdict: str
) -> None:
    samples = [replace(OK, fired_s=late_s)] * 10
    assert decide("x", Found("did x", checks, samples), 1.0, others).verdict == verdict


def test_what_is_refused_is_not_lost_and_what_fails_is() -> None:
    samples = [
        OK,
        replace(OK, outcome="rejected", status=429),
        replace(OK, outcome="failed", status=500, reason="boom"),
        replace(OK, outcome="unsent"),
    ]
    found = decide("x", Found("did x", [outcome.none_lost(samples)], samples), 1.0, 0.0)
    assert (found.sent, found.lost, found.verdict) == (4, 2, "broken")
    assert "boom" in found.reason
    assert outcome.none_lost(samples, but=2).holds
    assert not outcome.none_lost(samples, but=1).holds


@pytest.mark.parametrize(
    ("changes", "timed"),
    [
        pytest.param({"status": 408, "reason": "status 408"}, True, id="refused-for-time"),
        pytest.param({"status": 0, "reason": "TimeoutError: "}, True, id="no-answer-in-time"),
        pytest.param({"status": 503, "reason": "status 503"}, False, id="unavailable"),
        pytest.param({"status": 200, "reason": load.WRONG}, False, id="wrong"),
    ],
)
def test_a_loss_is_excused_only_where_a_time_limit_made_it(
    changes: dict[str, Any], timed: bool
) -> None:
    check = outcome.none_lost([OK, replace(OK, outcome="failed", **changes)])
    assert (check.holds, check.timed) == (False, timed)


def test_the_table_has_a_row_a_scenario_and_says_why_it_is_broken() -> None:
    broken = Outcome("b", "did b | c", "broken", "p95 3 s, bound 2 s", 9, 1, [SLOW], ["a note"])
    undecided = Outcome("u", "did u", "not decided", "no time was left")
    text = as_table("caption", [broken, undecided])
    assert "| b | did b \\| c | 9 | 1 | p95 3 s | 2 s | broken |" in text
    assert "| u | did u | - | - | - | - | not decided: no time was left |" in text
    assert "- b: p95 3 s, bound 2 s" in text
    assert "- b: a note" in text


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("ray::ServeReplica:default:distilled-tiny-vae", "default:distilled-tiny-vae"),
        ("ray::ServeReplica:steps:router.handle_request", "steps:router"),
        ("ray::ProxyActor", "proxy"),
        ("ray::ServeController.listen", ""),
        ("python -m tests.chaos", ""),
    ],
)
def test_a_process_is_known_by_its_title(title: str, role: str) -> None:
    assert role_of(title) == role


def test_others_have_what_is_busy_and_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda: 2)
    # Ten seconds of two cores: 15 s busy, 11 s of them our own.
    assert others_share([(0.0, 100.0, 7.0), (5.0, 108.0, 13.0), (10.0, 115.0, 18.0)]) == 0.2
    assert others_share([(0.0, 100.0, 7.0)]) == 0.0


def test_growth_is_from_the_first_fifth_to_the_last_of_processes_that_stayed() -> None:
    stayed = [Held(at, "default:router", 1, 1000 + 10 * at, 30) for at in range(10)]
    came = [Held(at, "default:router", 2, 1000, 30) for at in range(5, 10)]
    (one,) = growth([*stayed, *came])
    assert one.memory_bytes == (1005, 1085)
    assert one.memory == pytest.approx(0.08, abs=0.001)
    assert one.descriptors == (30, 30)


def test_a_scrape_is_summed_by_labels_of_one_application() -> None:
    text = """# HELP ray_dsd_requests_total x
ray_dsd_requests_total{application="default",outcome="cancelled",variant="a"} 3.0
ray_dsd_requests_total{application="default",outcome="cancelled",variant="b"} 4.0
ray_dsd_requests_total{application="default",outcome="done",variant="b"} 5.0
ray_dsd_requests_total{application="steps",outcome="cancelled",variant="b"} 9.0
ray_dsd_slots_used{application="default"} 0.0
"""
    found = metrics.parse(text, "default")
    assert found.ended("cancelled") == 7
    assert found.idle
    assert not metrics.parse(text.replace('default"} 0.0', 'default"} 1.0'), "default").idle


@pytest.mark.parametrize(
    ("told_s", "took_s", "ended", "right"),
    [
        (2.0, 2.1, "ok", True),
        (2.0, 4.9, "ok", True),
        (2.0, 5.1, "ok", False),
        (2.0, 2.1, "rejected", False),
    ],
)
def test_retry_after_is_right_within_a_factor_of_two(
    told_s: float, took_s: float, ended: str, right: bool
) -> None:
    assert overload.Return(told_s, took_s, 1, ended).right is right


def test_requests_are_few_the_same_each_time_and_of_every_kind() -> None:
    requests = mixed(("original", "distilled"))
    asked = [requests.body(index, "") for index in range(200)]
    assert asked == [requests.body(index, "") for index in range(200)]
    assert {load.key(one) for one in asked} == {load.key(one) for one in requests.bodies}
    assert len({one["num_inference_steps"] for one in asked}) > 2
    assert len({one["size"] for one in asked}) > 2


def test_a_picture_other_than_the_one_drawn_alone_fails_its_request() -> None:
    body: dict[str, Any] = {"model": "distilled", "prompt": "x", "seed": 3}

    async def play(client: Checked) -> None:
        await client.draw_alone([body])
        assert (await client.draw(body)).verdict.outcome == "ok"
        # Another picture for the same request: what a mixed-up batch would give.
        client._alone[load.key(body)] = 255 - client._alone[load.key(body)]
        assert (await client.draw(body)).verdict.reason == load.WRONG
        client.may_differ = True
        assert (await client.draw(body)).verdict.outcome == "ok"
        assert [one.asked for one in client.differing] == [body]
        assert not any(client.under_way.values())

    async def whole(url: str) -> None:
        async with checked(url) as client:
            await play(client)

    with serving(FakeService()) as service:
        asyncio.run(whole(service.url))


def test_pictures_of_another_size_differ_by_everything() -> None:
    assert difference(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 16, 3), np.uint8)) == np.inf


def test_ci_plays_some_scenarios_and_none_that_takes_long() -> None:
    quick = [one for one in SCENARIOS.values() if one.quick]
    assert 3 <= len(quick) < len(SCENARIOS)
