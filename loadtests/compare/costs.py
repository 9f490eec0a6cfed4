"""What a picture costs: device time, and money at a price an hour."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from ..rounds import Spread
from .findings import VariantFindings, carries_more
from .ratios import Ratio, Repeated
from .rungs import Carried


@dataclass(frozen=True)
class Cost:
    """At the median throughput of all of a variant's replicas; without a price no `per_1000`."""

    images_per_s: Spread
    device_s_per_image: float
    images_per_device_hour: float
    per_1000: float | None


@dataclass(frozen=True)
class Costs:
    """Of one variant, whose replicas have so many devices.

    `at_slo` is at the highest rate that met the SLO, for an online service (the Server scenario of
    MLPerf Inference), and its throughput reaches up to the lowest that missed it; None where no
    rate did, or none was decided. `at_saturation` is at the highest throughput of the closed loop,
    over the rounds, for batch jobs (its Offline scenario). `carried` and `throughput_per_s` are
    what both come from, per device.
    """

    devices: float
    at_slo: Cost | None
    at_saturation: Cost
    carried: Carried
    throughput_per_s: Repeated


@dataclass(frozen=True)
class Cheapest:
    """The variant with the lowest cost a picture, then those that the run can't tell from it."""

    by: Literal["at_slo", "at_saturation"]
    variants: tuple[str, ...]


def costs(
    found: Mapping[str, VariantFindings],
    replicas: Mapping[str, int],
    devices_per_replica: float,
    price_per_hour: float | None,
    images_per_request: int = 1,
) -> dict[str, Costs]:
    """By variant, where its throughput was measured.

    `replicas` are the warm ones of each variant, `devices_per_replica` GPUs or a fraction of one.
    """
    found_costs = {}
    for variant, figures in found.items():
        if figures.best is None:
            continue
        devices = max(1, replicas.get(variant, 1)) * devices_per_replica
        # Both loops count requests.
        cost = partial(_cost, images_per_request, devices, price_per_hour)
        at_slo, carried = None, figures.carried
        if carried.met_per_s is not None:
            ends = carried.met_per_s, carried.missed_per_s or carried.met_per_s
            at_slo = cost(Spread(carried.met_per_s, *ends, 1))
        by_round = figures.best.images_per_s.by_round
        found_costs[variant] = Costs(
            devices,
            at_slo,
            cost(figures.best.images_per_s.spread),
            carried.by(devices),
            Repeated({round_: per_s / devices for round_, per_s in by_round.items()}),
        )
    return found_costs


def _cost(
    images_per_request: int, devices: float, price_per_hour: float | None, requests_per_s: Spread
) -> Cost:
    images_per_s = requests_per_s.times(images_per_request)
    device_s = devices / images_per_s.median
    return Cost(
        images_per_s=images_per_s,
        device_s_per_image=device_s,
        images_per_device_hour=3600 / device_s,
        per_1000=None if price_per_hour is None else 1000 * device_s / 3600 * price_per_hour,
    )


def cheapest(costs: Mapping[str, Costs]) -> Cheapest:
    """Within the SLO, where that is decided of every variant but those that certainly carry less.

    Else at saturation. `costs` must not be empty.
    """
    at_slo = {name: cost.at_slo.device_s_per_image for name, cost in costs.items() if cost.at_slo}
    if at_slo:
        best = min(at_slo, key=lambda name: at_slo[name])
        bracket = costs[best].carried
        tied = [
            name
            for name, cost in costs.items()
            if name != best and carries_more(bracket, cost.carried) != "better"
        ]
        if set(tied) <= set(at_slo):
            return Cheapest("at_slo", (best, *tied))
    best = min(costs, key=lambda name: costs[name].at_saturation.device_s_per_image)
    tied = []
    for name, cost in costs.items():
        ratio = Ratio.of(costs[best].throughput_per_s, cost.throughput_per_s)
        if name != best and (ratio is None or ratio.outcome in ("tie", "not decided")):
            tied.append(name)
    return Cheapest("at_saturation", (best, *tied))
