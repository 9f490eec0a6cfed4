"""An earlier plan's p95 at its rate, against the one measured now."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .design import Design
from .record import Record
from .rungs import rung


@dataclass(frozen=True)
class PlanCheck:
    """`error` is words: how far the measured p95 lies from the predicted one."""

    variant: str
    rate_per_s: float
    predicted_p95_s: float
    measured_p95_s: float | None
    error: str
    note: str


def planned_rates(plan: Mapping[str, Any], replicas: Mapping[str, int]) -> dict[str, float]:
    """What to offer each planned variant: its replica's planned rate times its warm replicas."""
    return {
        name: variant["rate_per_replica"] * replicas[name]
        for name, variant in plan["variants"].items()
        if replicas.get(name) and variant["replicas"]
    }


def check_plan(
    plan: Mapping[str, Any], replicas: Mapping[str, int], design: Design, record: Record
) -> list[PlanCheck]:
    """Each variant that was measured at its planned rate."""
    checks = []
    for name, rate in planned_rates(plan, replicas).items():
        runs = [run for run in record.of("plan", name, rate_per_s=rate) if run.samples]
        if not runs:
            continue
        planned = plan["variants"][name]
        seen = rung(design, runs, rate, float(plan["slo_p95_s"]))
        predicted = float(planned["p95_s"])
        note = "" if replicas[name] == planned["replicas"] else (
            f"planned for {planned['replicas']} replicas, {replicas[name]} are here: each got its "
            "share of the rate"
        )  # fmt: skip
        if seen.p95_s is None:
            error = f"SLO {seen.slo}"
        else:
            error = f"{seen.p95_s / predicted - 1:+.0%}, SLO {seen.slo}"
        checks.append(PlanCheck(name, rate, predicted, seen.p95_s, error, note))
    return checks
