"""Replicas for a rate: from a report's curve to configuration that Ray accepts."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.config import AutoscalingConfig

from loadtests.compare.gate import read_json
from loadtests.compare.plan_check import planned_rates
from loadtests.plan import (
    Measured,
    NotPlannable,
    VariantPlan,
    _mix,
    configuration,
    main,
    plan_variant,
    read_measured,
)
from tests.commands import Done, run_main

# p95 of a queue: 0.5 s at 1/s, 1 s at 1.5/s, 3 s at 1.8/s.
CURVE = Measured(
    p95_s=((1.0, 0.5), (1.5, 1.0), (1.8, 3.0)),
    mean_s=((1.0, 0.4), (1.5, 0.6), (1.8, 1.5)),
    images_per_s=2.0,
)


@pytest.mark.parametrize(
    ("slo_s", "rate"),
    [
        pytest.param(0.4, 0.0, id="below-everything-measured"),
        pytest.param(0.5, 1.0, id="just-met"),
        pytest.param(0.75, 1.25, id="between"),
        pytest.param(2.0, 1.65, id="between-again"),
        pytest.param(99, 1.8, id="never-more-than-was-tried"),
    ],
)
def test_the_highest_rate_within_an_slo(slo_s: float, rate: float) -> None:
    assert CURVE.rate_within(slo_s) == pytest.approx(rate)


def planned(rate_per_s: float, slo_s: float, **changed: Any) -> VariantPlan | None:
    options = {"efficiency": 1.0, "devices_per_replica": 1.0, "price_per_hour": 2.0, **changed}
    return plan_variant(CURVE, rate_per_s, slo_s, **options)


def test_replicas_carry_the_rate_and_no_fewer_would() -> None:
    plan = planned(20, 1.0)
    assert plan is not None
    assert plan.replicas == 14  # 20 / 1.5 is 13.3.
    assert plan.rate_per_replica == pytest.approx(20 / 14)
    assert plan.p95_s < 1.0
    assert (plan.devices, plan.cost_per_hour) == (14, 28)
    assert plan.max_ongoing_requests == 2  # Two pictures fill the second.
    assert plan.target_ongoing_requests == pytest.approx(20 / 14 * 0.57, abs=0.06)


@pytest.mark.parametrize(
    ("rate_per_s", "options", "replicas", "devices"),
    [(1.5, {}, 1, 1), (20, {"devices_per_replica": 0.5, "efficiency": 0.8}, 17, 9)],
    ids=["exactly-what-one-carries", "fractions-and-lost-efficiency"],
)
def test_replicas_and_devices(
    rate_per_s: float, options: dict[str, float], replicas: int, devices: int
) -> None:
    plan = planned(rate_per_s, 1.0, **options)
    assert plan is not None
    assert (plan.replicas, plan.devices) == (replicas, devices)


def test_an_slo_that_no_measured_rate_keeps_has_no_plan() -> None:
    assert planned(20, 0.1) is None


def test_the_configuration_is_rays() -> None:
    plan = planned(20, 1.0)
    assert plan is not None
    text = configuration({"distilled": plan})
    documents = list(yaml.safe_load_all(text.replace("# RayCluster", "---\n# RayCluster")))
    (deployment,) = documents[0]["deployments"]
    scaling = AutoscalingConfig(**deployment["autoscaling_config"])
    assert scaling.max_replicas == scaling.initial_replicas == 14
    assert deployment["max_ongoing_requests"] == 2
    (group,) = documents[1]["workerGroupSpecs"]
    assert group["replicas"] == 14


def a_report(p95_s: float | None = 1.0, rate_per_s: float = 2.0) -> dict[str, Any]:
    def rung(rate: float, p95: float | None) -> dict[str, Any]:
        return {"rate_per_s": rate, "p95_s": p95, "mean_s": 0.5, "void": "", "achieved_per_s": 1.9}

    figures = {
        "rungs": [rung(rate_per_s, p95_s), rung(4.0, None)],
        "closed": [{"images_per_s": {"by_round": {"0": 4.0, "1": 5.0, "2": 6.0}}}],
    }
    return {
        "report": "comparison",
        "setup": {"devices_per_replica": 1.0, "price_per_hour": None},
        "endpoint": {"replicas": {"original": 2, "distilled": 2}},
        "variants": {"original": figures, "distilled": figures},
    }


def test_a_reports_curve_is_of_one_replica() -> None:
    measured = read_measured(a_report())["original"]
    assert measured.p95_s == ((1.0, 1.0),)  # 2/s by two replicas.
    assert measured.images_per_s == 2.5
    assert read_measured(a_report(p95_s=None)) == {}


def test_a_replica_is_planned_no_rate_beyond_its_capacity() -> None:
    # Two replicas draw 5/s; a run at 20/s may end before its queue has grown too long.
    assert read_measured(a_report(rate_per_s=20.0))["original"].p95_s == ((2.5, 1.0),)


def test_shares_of_a_mix() -> None:
    assert _mix("", ["a", "b"]) == {"a": 0.5, "b": 0.5}
    assert _mix("a=0.2,b=0.8", ["a", "b"]) == {"a": 0.2, "b": 0.8}
    assert _mix("a=1,b=0", ["a", "b"]) == {"a": 1}


@pytest.mark.parametrize("text", ["a", "a=x", "c=1", "a=0.5", "a=2,b=-1"])
def test_shares_that_are_none_are_named(text: str) -> None:
    with pytest.raises(NotPlannable, match="mix: "):
        _mix(text, ["a", "b"])


def plan(tmp_path: Path, report: Any, *arguments: str) -> Done:
    path = tmp_path / "report.json"
    path.write_text(report if isinstance(report, str) else json.dumps(report))
    return run_main(main, path, *arguments)


def test_the_command_plans_every_variant_and_a_mix(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    done = plan(
        tmp_path, a_report(), "--rate", "20", "--slo-p95", "2", "--price-per-hour", "1.5",
        "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "| original | 20 | 20 | 1 | 20 | 1.00 | 30.00 | 0.417 |" in done.stdout
    assert "| in all | 20 | 20 |" in done.stdout
    written = read_json(out, "plan", "replicas")
    assert written["variants"]["distilled"]["replicas"] == 20
    assert written["mix"]["distilled"]["replicas"] == 10
    # Where fewer replicas run than planned, each is offered its share.
    assert planned_rates(written, {"original": 2}) == {"original": pytest.approx(2)}


@pytest.mark.parametrize(
    ("report", "arguments", "complaint"),
    [
        pytest.param("{}", [], "not a comparison's report.json", id="no-report"),
        pytest.param(a_report(p95_s=None), [], "no p95 is decided there", id="quick"),
        pytest.param(a_report(), ["--slo-p95", "0.1"], "slo-p95: original: no rate", id="slo"),
        pytest.param(a_report(), ["--rate", "0"], "rate: 0.0 was given", id="rate"),
        pytest.param(a_report(), ["--rate", "nan"], "rate: nan was given", id="nan"),
        pytest.param(a_report(), ["--mix", "huge=1"], "mix: 'huge' was given", id="mix"),
    ],
)
def test_what_cannot_be_planned_is_one_clear_line(
    report: Any, arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    done = plan(tmp_path, report, "--rate", "20", "--slo-p95", "2", *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert complaint in done.stderr
