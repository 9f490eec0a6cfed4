"""The monitoring component's PromQL: alerts and dashboard, and the metrics that they name."""

import json
import re
from typing import Any

import yaml

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


def metrics() -> set[str]:
    return {name for one in expressions().values() for name in metrics_in(one)}
