"""What a picture costs: device time, and money at a price an hour."""

from collections.abc import Mapping
from dataclasses import dataclass

from .findings import VariantFindings


@dataclass(frozen=True)
class Cost:
    """At the highest throughput of the closed loop; `per_1000` is None without a price."""

    devices: float
    device_s_per_image: float
    images_per_device_hour: float
    per_1000: float | None


def costs(
    found: Mapping[str, VariantFindings],
    replicas: Mapping[str, int],
    devices_per_replica: float,
    price_per_hour: float | None,
) -> dict[str, Cost]:
    """By variant, where its throughput was measured.

    `replicas` are the warm ones of each variant, `devices_per_replica` GPUs or a fraction of one.
    """
    found_costs = {}
    for variant, figures in found.items():
        if not figures.images_per_s:
            continue
        devices = max(1, replicas.get(variant, 1)) * devices_per_replica
        device_s = devices / figures.images_per_s
        found_costs[variant] = Cost(
            devices=devices,
            device_s_per_image=device_s,
            images_per_device_hour=3600 / device_s,
            per_1000=None if price_per_hour is None else 1000 * device_s / 3600 * price_per_hour,
        )
    return found_costs
