"""The monitoring component's PromQL: alerts and dashboard, and the metrics that they name."""

import json
import re
from typing import Any

import yaml
from ray.util.metrics import Counter, Histogram, Metric

from serve.metrics import ReplicaMetrics, RouterMetrics
from tests.manifests.rendering import COMPONENTS

METRIC = re.compile(r"\b(?:ray|autoscaler|kuberay)_[a-z0-9_]+")
# What the PodMonitors put on every series, by Prometheus's spelling.
POD_LABELS = {"ray_io_cluster", "ray_io_group"}


def alert_groups() -> dict[str, Any]:
    """The PrometheusRule's groups, as Prometheus itself would read them."""
    rule = yaml.safe_load((COMPONENTS / "monitoring" / "alerts.yaml").read_text())
    groups: dict[str, Any] = rule["spec"]
    return groups


def dashboard() -> dict[str, Any]:
    content: dict[str, Any] = json.loads((COMPONENTS / "monitoring" / "dashboard.json").read_text())
    return content


def expressions() -> dict[str, str]:
    """Every expression, by the alert or panel that it is in."""
    found = {
        f"alert {rule['alert']}": rule["expr"]
        for group in alert_groups()["groups"]
        for rule in group["rules"]
    }
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", []):
            found[f"panel {panel['title']}, {target['refId']}"] = target["expr"]
    return found


def metrics_in(expression: str) -> set[str]:
    return set(METRIC.findall(re.sub(r'"[^"]*"', "", expression))) - POD_LABELS


def own_metrics() -> dict[str, set[str]]:
    """This service's series as Prometheus has them, each with the labels of its own."""
    found: dict[str, set[str]] = {}
    for one in [*vars(ReplicaMetrics()).values(), *vars(RouterMetrics()).values()]:
        if not isinstance(one, Metric):
            continue
        name, labels = f"ray_{one.info['name']}", set(one.info["tag_keys"])
        match one:
            case Counter():
                found[f"{name}_total"] = labels
            case Histogram():
                found |= {f"{name}_{part}": labels for part in ("sum", "count")}
                found[f"{name}_bucket"] = labels | {"le"}
            case _:
                found[name] = labels
    return found


def labels_in(expression: str) -> set[str]:
    """What an expression selects and groups by."""
    selected = re.findall(r"(\w+)\s*=~?\s*\"", expression)
    grouped = re.findall(r"by \(([^)]*)\)", expression)
    return {*selected, *(one.strip() for names in grouped for one in names.split(","))}


def metrics() -> set[str]:
    return {name for one in expressions().values() for name in metrics_in(one)}
