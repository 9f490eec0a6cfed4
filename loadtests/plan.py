"""`python -m loadtests.plan report.json --rate 20 --slo-p95 4`: how many replicas that takes.

Reads a comparison's report.json: each variant's p95 at the rates that were tried. Says how many
replicas and devices of each variant, and of a mix, carry a rate within an SLO, what that costs, and
the configuration to paste. A replica is given a rate that was measured to keep the SLO, or lies
between such a one and the next that was measured; never more than was tried.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from serve.errors import ServingError

from .markdown import table


class NotPlannable(ServingError):
    """The report or the arguments leave nothing to plan with."""


@dataclass(frozen=True)
class Measured:
    """One replica of a variant: (requests a second, seconds) pairs, rates ascending."""

    p95_s: tuple[tuple[float, float], ...]
    mean_s: tuple[tuple[float, float], ...]
    images_per_s: float

    def rate_within(self, slo_s: float) -> float:
        """The highest rate whose p95 keeps the SLO; 0 where no measured one does."""
        best, best_s = 0.0, 0.0
        for rate, p95_s in self.p95_s:
            if p95_s > slo_s:
                return best and best + (rate - best) * (slo_s - best_s) / (p95_s - best_s)
            best, best_s = rate, p95_s
        return best


def _at(rate: float, points: Sequence[tuple[float, float]]) -> float:
    """Between measured rates on a straight line; below the lowest, the lowest's."""
    rates, seconds = np.array(points).T
    return float(np.interp(rate, rates, seconds))


@dataclass(frozen=True)
class VariantPlan:
    """What carries one variant's rate."""

    rate_per_s: float
    replicas: int
    rate_per_replica: float
    devices: int
    p95_s: float
    cost_per_hour: float | None
    max_ongoing_requests: int
    target_ongoing_requests: float


def read_measured(report: Mapping[str, Any]) -> dict[str, Measured]:
    """Each variant's curve per replica; those without a decided p95 are left out."""
    measured = {}
    for name, figures in report["variants"].items():
        replicas = max(1, report["endpoint"]["replicas"].get(name, 1))
        decided = [
            rung for rung in figures["rungs"] if rung["p95_s"] is not None and not rung["void"]
        ]
        levels = [level["images_per_s"]["by_round"].values() for level in figures["closed"]]
        if decided and levels:
            closed_per_s = max(map(statistics.median, levels))
            # A run may end before the queue of a rate beyond this has grown too long.
            most_per_s = max([closed_per_s, *(rung["achieved_per_s"] for rung in decided)])
            rates = [min(rung["rate_per_s"], most_per_s) / replicas for rung in decided]
            measured[name] = Measured(
                p95_s=tuple(zip(rates, (rung["p95_s"] for rung in decided), strict=True)),
                mean_s=tuple(zip(rates, (rung["mean_s"] for rung in decided), strict=True)),
                images_per_s=closed_per_s / replicas,
            )
    return measured


def plan_variant(
    measured: Measured,
    rate_per_s: float,
    slo_s: float,
    *,
    efficiency: float,
    devices_per_replica: float,
    price_per_hour: float | None,
) -> VariantPlan | None:
    """The fewest replicas that carry the rate; None where no measured rate keeps the SLO.

    `efficiency` is that of several replicas against as many single ones, 0 to 1.
    """
    most = measured.rate_within(slo_s) * efficiency
    if not most:
        return None
    replicas = max(1, math.ceil(rate_per_s / most - 1e-9))
    share = rate_per_s / replicas
    devices = math.ceil(replicas * devices_per_replica - 1e-9)
    return VariantPlan(
        rate_per_s=rate_per_s,
        replicas=replicas,
        rate_per_replica=share,
        devices=devices,
        p95_s=_at(share / efficiency, measured.p95_s),
        cost_per_hour=None if price_per_hour is None else devices * price_per_hour,
        # What waits behind more than this in one replica is late already.
        max_ongoing_requests=max(1, math.floor(slo_s * measured.images_per_s)),
        # Little's law.
        target_ongoing_requests=max(0.1, round(share * _at(share, measured.mean_s), 1)),
    )


def configuration(plans: Mapping[str, VariantPlan]) -> str:
    """YAML to paste: `deployments:` of a serve-config file and KubeRay's worker groups."""
    deployments = [
        {
            "name": name,
            "max_ongoing_requests": plan.max_ongoing_requests,
            "autoscaling_config": {
                "min_replicas": 1,
                "initial_replicas": plan.replicas,
                "max_replicas": plan.replicas,
                "target_ongoing_requests": plan.target_ongoing_requests,
            },
        }
        for name, plan in plans.items()
    ]
    groups = [
        {"groupName": name, "minReplicas": 1, "replicas": plan.devices, "maxReplicas": plan.devices}
        for name, plan in plans.items()
    ]
    return (
        "# serve config, under the application; num_replicas must be absent\n"
        + yaml.safe_dump({"deployments": deployments}, sort_keys=False)
        + "# RayCluster: one worker a device\n"
        + yaml.safe_dump({"workerGroupSpecs": groups}, sort_keys=False)
    )


def _mix(text: str, known: Sequence[str]) -> dict[str, float]:
    """Shares by variant: `a=0.2,b=0.8`; even ones where nothing is given."""
    if not text:
        return {name: 1 / len(known) for name in known}
    shares = {}
    for part in text.split(","):
        name, _, share = part.partition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            raise NotPlannable(f"mix: {part!r} was given; it must be VARIANT=SHARE") from None
        if name not in known:
            raise NotPlannable(f"mix: {name!r} was given; planned are {', '.join(known)}")
    if not math.isclose(sum(shares.values()), 1, abs_tol=0.01) or min(shares.values()) < 0:
        raise NotPlannable(f"mix: the shares are {sum(shares.values()):g} in all; they must be 1")
    return {name: share for name, share in shares.items() if share}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("report", type=Path, help="report.json of a comparison")
    add("--rate", type=float, required=True, help="requests a second to carry, at the peak")
    add("--slo-p95", type=float, required=True, help="seconds that 95 of 100 requests should keep")
    add("--mix", default="", help="a=0.2,b=0.8: shares of the rate; default: even ones")
    add("--efficiency", type=float, default=1.0, help="of several replicas, against single ones")
    add("--price-per-hour", type=float, help="of a device; default: the report's")
    add("--out", type=Path, help="write plan.json here, for loadtests.compare --plan")
    return parser


def main() -> int:
    """Plan, print a table and configuration; 2 where nothing can be planned."""
    args = _parser().parse_args()
    try:
        return _plan(args)
    except (ServingError, OSError) as fault:
        print(f"distilled-sd-serve: {fault}", file=sys.stderr)
        return 2


def _plan(args: argparse.Namespace) -> int:
    for name, most in (("rate", 1e6), ("slo_p95", 1e6), ("efficiency", 1.0)):
        value = getattr(args, name)
        if not 0 < value <= most:
            raise NotPlannable(
                f"{name.replace('_', '-')}: {value} was given; allowed: over 0, at most {most:g}"
            )
    try:
        report = json.loads(args.report.read_text())
        measured = read_measured(report)
        setup = report["setup"]
    except (ValueError, KeyError, TypeError) as fault:
        raise NotPlannable(f"{args.report}: not a comparison's report.json: {fault!r}") from None
    if not measured:
        raise NotPlannable(f"{args.report}: no p95 is decided there; compare without --quick")
    options = {
        "efficiency": args.efficiency,
        "devices_per_replica": setup["devices_per_replica"],
        "price_per_hour": args.price_per_hour or setup["price_per_hour"],
    }
    plans, cannot = {}, []
    for name in report["variants"]:
        plan = None
        if name in measured:
            plan = plan_variant(measured[name], args.rate, args.slo_p95, **options)
        if plan is None:
            cannot.append(f"{name}: no rate is known there whose p95 keeps {args.slo_p95:g} s")
        else:
            plans[name] = plan
    if not plans:
        raise NotPlannable("slo-p95: " + "; ".join(cannot))
    mix = {}
    for name, share in _mix(args.mix, list(plans)).items():
        part = plan_variant(measured[name], share * args.rate, args.slo_p95, **options)
        assert part is not None  # Those without one are not among the plans.
        mix[name] = part
    _print_plans(args, plans, mix, cannot)
    if args.out:
        written = {
            "plan": "replicas",
            "rate_per_s": args.rate,
            "slo_p95_s": args.slo_p95,
            "variants": {name: asdict(plan) for name, plan in plans.items()},
            "mix": {name: asdict(plan) for name, plan in mix.items()},
        }
        args.out.write_text(json.dumps(written, indent=1) + "\n")
    return 0


def _print_plans(
    args: argparse.Namespace,
    plans: Mapping[str, VariantPlan],
    mix: Mapping[str, VariantPlan],
    cannot: Sequence[str],
) -> None:
    head = ["variant", "rate/s", "replicas", "rate a replica", "devices", "predicted p95 s",
            "cost an hour", "cost of 1,000"]  # fmt: skip
    caption = f"{args.rate:g} requests a second with p95 within {args.slo_p95:g} s"
    print(table(f"{caption}, by one variant alone", head, [_row(*plan) for plan in plans.items()]))
    if len(mix) > 1:
        rows = [_row(*plan) for plan in mix.items()]
        devices = sum(plan.devices for plan in mix.values())
        cost = sum(plan.cost_per_hour or 0 for plan in mix.values())
        in_all = f"{cost:.2f}" if any(plan.cost_per_hour for plan in mix.values()) else "-"
        rows.append(["in all", f"{args.rate:g}", str(sum(o.replicas for o in mix.values())), "",
                     str(devices), "", in_all, ""])  # fmt: skip
        print("\n" + table(f"{caption}, as a mix", head, rows))
    for reason in cannot:
        print(f"\nNot planned: {reason}")
    print("\n" + configuration(mix if args.mix else plans), end="")


def _row(name: str, plan: VariantPlan) -> list[str]:
    cost, per_1000 = "-", "-"
    if plan.cost_per_hour is not None:
        cost = f"{plan.cost_per_hour:.2f}"
        per_1000 = f"{plan.cost_per_hour / 3.6 / plan.rate_per_s:.3g}"
    return [name, f"{plan.rate_per_s:.3g}", str(plan.replicas), f"{plan.rate_per_replica:.3g}",
            str(plan.devices), f"{plan.p95_s:.2f}", cost, per_1000]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
