"""What makes a verdict, how outcomes are recorded, and that documents and scenarios agree."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.samples import Sample
from tests.commands import run_main
from tests.faults import machine
from tests.faults.__main__ import main
from tests.faults.load import WRONG
from tests.faults.local import total
from tests.faults.machine import growth, others_share, role_of
from tests.faults.outcome import Check, Found, Outcome, as_table, decide, none_lost, record
from tests.faults.scenarios import SCENARIOS
from tests.faults.scenarios.overload import Return
from tests.machine import ROOT

OK = Sample(0, "mixed", 4, scheduled_s=0.0, fired_s=0.0, done_s=1.0, status=200, outcome="ok")
FAST = Check("p95 1 s", "2 s", True, timed=True)
SLOW = Check("p95 3 s", "2 s", False, timed=True)
LOST = Check("1 lost", "0", False)


@pytest.mark.parametrize(
    ("checks", "others", "late_s", "verdict"),
    [
        pytest.param([FAST], 0.9, 9.0, "holds", id="within-although-busy"),
        pytest.param([FAST, SLOW], 0.0, 0.0, "broken", id="slow"),
        pytest.param([FAST, SLOW], 0.5, 0.0, "not decided", id="slow-while-others-compute"),
        pytest.param([FAST, SLOW], 0.0, 1.0, "not decided", id="slow-and-sent-late"),
        pytest.param([SLOW, LOST], 0.5, 1.0, "broken", id="no-excuse-for-what-is-wrong"),
    ],
)
def test_only_seconds_are_excused_by_a_busy_machine(
    checks: list[Check], others: float, late_s: float, verdict: str
) -> None:
    samples = [replace(OK, fired_s=late_s)] * 10
    assert decide("x", "did x", Found(checks, samples), 1.0, others).verdict == verdict


def test_what_is_refused_is_not_lost_and_what_fails_is() -> None:
    samples = [
        OK,
        replace(OK, outcome="rejected", status=429),
        replace(OK, outcome="failed", status=500, reason="boom"),
        replace(OK, outcome="unsent"),
    ]
    found = decide("x", "did x", Found([none_lost(samples)], samples), 1.0, 0.0)
    assert (found.sent, found.lost, found.verdict) == (4, 2, "broken")
    assert "boom" in found.reason
    assert none_lost(samples, allowed=2).holds
    assert not none_lost(samples, allowed=1).holds


@pytest.mark.parametrize(
    ("status", "reason", "timed"),
    [(408, "status 408", True), (0, "TimeoutError: ", True), (503, "", False), (200, WRONG, False)],
)
def test_a_loss_is_excused_only_where_a_time_limit_made_it(
    status: int, reason: str, timed: bool
) -> None:
    check = none_lost([OK, replace(OK, outcome="failed", status=status, reason=reason)])
    assert (check.holds, check.timed) == (False, timed)


def test_the_table_has_a_row_a_scenario_and_a_line_for_each_reason_and_note() -> None:
    broken = Outcome("b", "did b | c", "broken", "p95 3 s, bound 2 s", 9, 1, [SLOW], ["a note"])
    text = as_table("caption", [broken, Outcome("u", "did u", "skipped", "needs redis")])
    assert "| b | did b \\| c | 9 | 1 | p95 3 s | 2 s | broken |" in text
    assert "| u | did u | - | - | - | - | skipped |" in text
    assert "- b: p95 3 s, bound 2 s\n- b: a note\n- u: needs redis\n" in text


def test_an_outcome_replaces_the_one_recorded_before_for_its_scenario_and_overlay(
    tmp_path: Path,
) -> None:
    file = tmp_path / "found" / "faults.json"
    record(file, {"overlay": "", "commit": "1"}, [Outcome("a", "", "broken")])
    record(file, {"overlay": "gpu", "commit": "2"}, [Outcome("a", "", "holds")])
    record(file, {"overlay": "", "commit": "3"}, [Outcome("a", "", "holds", checks=[FAST])])
    first, second = json.loads(file.read_text())
    assert (first["commit"], first["checks"][0]["figure"]) == ("3", "p95 1 s")
    assert (second["commit"], second["overlay"]) == ("2", "gpu")


def test_a_process_is_known_by_its_title() -> None:
    assert (
        role_of("ray::ServeReplica:steps:distilled-tiny-vae.handle") == "steps:distilled-tiny-vae"
    )
    assert role_of("ray::ProxyActor") == "proxy"
    assert role_of("ray::ServeController.listen") == ""


def test_others_have_what_is_busy_and_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda: 2)
    # Ten seconds of two cores: 15 s busy, 11 s of them our own.
    assert others_share([(0.0, 100.0, 7.0), (5.0, 108.0, 13.0), (10.0, 115.0, 18.0)]) == 0.2
    assert others_share([(0.0, 100.0, 7.0)]) == 0.0


def test_growth_is_from_the_first_fifth_to_the_last_of_processes_that_stayed() -> None:
    looks = [{("router", 1): (1000 + 10 * at, 30)} for at in range(10)]
    looks = [look | ({("router", 2): (9, 9)} if at > 4 else {}) for at, look in enumerate(looks)]
    (one,) = growth(looks)
    assert (one.first, one.last, one.descriptors) == ((1005, 30), (1085, 30), 0)
    assert one.memory_share == pytest.approx(0.08, abs=0.001)


def test_a_scrape_is_summed_by_labels() -> None:
    text = """# HELP requests x
requests{application="default",outcome="cancelled",variant="a"} 3.0
requests{application="default",outcome="cancelled",variant="b"} 4.0
requests{application="default",outcome="done",variant="b"} 5.0
requests{application="steps",outcome="cancelled",variant="b"} 9.0
"""
    assert total(text, "requests", application="default", outcome="cancelled") == 7


def test_a_return_is_in_time_within_twice_retry_after() -> None:
    assert Return(2.0, 4.9, 1, "ok").in_time
    assert not Return(2.0, 5.1, 1, "ok").in_time
    assert not Return(2.0, 2.1, 1, "rejected").in_time


def test_a_wrong_name_is_refused_with_those_that_are_allowed() -> None:
    for arguments in (["--only", "nothing"], ["--overlay", "nothing"]):
        done = run_main(main, *arguments)
        assert done.returncode == 2
        assert "'nothing'" in done.stderr
        assert ("clients leave" if "--only" in arguments else "production") in done.stderr


def test_every_scenario_is_a_promise_in_the_documents_with_the_verdict_on_record() -> None:
    trust = ROOT / "docs" / "TRUST.md"
    row = re.compile(r"^\|[^|]+\| `([^`|]+)` \|[^|]+\| ([^|]+) \|$", re.MULTILINE)
    verdicts = dict(row.findall(trust.read_text()))
    recorded = json.loads((trust.parent / "trust" / "faults.json").read_text())
    assert set(SCENARIOS) == {row["scenario"] for row in recorded}
    assert {(row["scenario"], row["verdict"]) for row in recorded} <= verdicts.items()
