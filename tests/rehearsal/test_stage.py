"""What counts as lost, and how it is told."""

import pytest

from deploy.rehearsal.kubelet import ReadinessProbe
from deploy.rehearsal.load import Asked
from deploy.rehearsal.outcome import Outcome, as_table, report
from deploy.rehearsal.stage import NotMet, none_lost, only_under_way
from deploy.rehearsal.translation import groups
from loadtests.samples import Sample

from .ray_service import overlay

KILLED_S = 100.0


def asked(outcome: str, sent_s: float = 99.0, done_s: float = 101.0) -> Asked:
    sample = Sample(0, "original", 10, 0.0, 0.0, 1.0, outcome=outcome, reason=f"it {outcome}")  # type: ignore[arg-type]
    return Asked(sample, sent_s, done_s)


@pytest.mark.parametrize("outcome", ["failed", "rejected", "unfinished", "unsent"])
def test_whatever_is_no_picture_is_lost(outcome: str) -> None:
    with pytest.raises(NotMet, match=f"1 of 2 requests lost: it {outcome}"):
        none_lost([asked("ok"), asked(outcome)])
    none_lost([asked("ok")])


@pytest.mark.parametrize(
    ("sent_s", "done_s", "fine"),
    [
        pytest.param(99, 101, True, id="under-way"),
        pytest.param(101, 101, True, id="sent-before-anybody-noticed"),
        pytest.param(103, 104, False, id="sent-later"),
        pytest.param(98, 99, False, id="failed-before"),
    ],
)
def test_a_kill_may_only_cost_what_was_under_way(sent_s: float, done_s: float, fine: bool) -> None:
    lost = [asked("failed", sent_s, done_s)]
    if fine:
        only_under_way(lost, KILLED_S)
    else:
        with pytest.raises(NotMet):
            only_under_way(lost, KILLED_S)


def test_the_table_tells_figures_verdicts_and_reasons() -> None:
    text = as_table(
        "A caption.",
        [
            Outcome("drained", "SIGTERM", "holds", sent=20, lost=0, recovered_s=1.25),
            Outcome("killed", "SIGKILL", "FAILS", "3 of 20 requests lost", 20, 3),
            Outcome("head", "the head dies", "skipped", "needs redis-server"),
        ],
    )
    assert "| drained | SIGTERM | 20 | 0 | 1.2 | - | holds |" in text
    assert "| killed | SIGKILL | 20 | 3 | - | - | FAILS |" in text
    assert "- killed: 3 of 20 requests lost" in text
    assert "- head: needs redis-server" in text


def test_a_new_report_keeps_what_people_wrote_below_the_old_one() -> None:
    first = report("| old |\n", "")
    second = report("| new |\n", first + "\n## What it found\n\n- a finding\n")
    assert "| old |" not in second
    assert second.endswith("| new |\n\n## What it found\n\n- a finding\n")
    assert report("| new |\n", second) == second


def test_a_pod_without_a_probe_gets_the_operators_and_one_with_its_own_keeps_it() -> None:
    head, worker = groups(overlay().ray_service)
    assert ReadinessProbe.of(head).failures == 10
    assert ReadinessProbe.of(worker) == ReadinessProbe(10, 5, 2, 1)
    own = {
        "ports": [{"name": "serve", "containerPort": 8000}],
        "readinessProbe": {
            "httpGet": {"path": "/-/healthz", "port": "serve"},
            "periodSeconds": 5,
            "timeoutSeconds": 5,
        },
    }
    worker = groups(overlay(container=own).ray_service)[1]
    assert ReadinessProbe.of(worker) == ReadinessProbe(0, 5, 5, 3, 8000, "/-/healthz")
