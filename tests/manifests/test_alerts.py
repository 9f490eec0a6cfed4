"""Alerts and dashboard, read by Prometheus's own tool; tests/integration has the live scrape."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.routing.auto import QualityFirst
from tests.manifests.monitoring import (
    METRIC,
    alert_groups,
    dashboard,
    expressions,
    labels_in,
    metrics_in,
    own_metrics,
)
from tests.manifests.rendering import ROOT, of_kind, rendered

# What Serve puts on the series of a replica and of a router, and Prometheus on every pod's.
OF_EVERY_SERIES = {"application", "deployment", "replica", "namespace"}

UNIT_TESTS = Path(__file__).with_name("alerts.test.yaml")


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed; Debian has it in the package prometheus")
    return found


def run(promtool: str, folder: Path, *arguments: str) -> tuple[int, str]:
    """The exit status, and all that was printed."""
    done = subprocess.run(
        [promtool, *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def in_namespace(name: str, series: list[dict[str, str]]) -> list[dict[str, str]]:
    return [
        {**one, "series": one["series"].replace("{", f'{{namespace="{name}", ', 1)}
        for one in series
    ]


def beside_a_healthy_installation(text: str) -> str:
    """promtool's tests in the namespace production, each with a healthy service in staging."""
    content = yaml.safe_load(text)
    healthy = in_namespace("staging", content["tests"][0]["input_series"])
    for test in content["tests"]:
        given = test["input_series"]
        if any("{" in one["series"] for one in given):
            test["input_series"] = [*in_namespace("production", given), *healthy]
            for rule in test["alert_rule_test"]:
                for alert in rule.get("exp_alerts", []):
                    alert["exp_labels"]["namespace"] = "production"
    return yaml.safe_dump(content)


def unit_test(promtool: str, folder: Path, rules: dict[str, Any]) -> tuple[int, str]:
    # promtool would compare the texts, too; they are for people.
    for group in rules["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    (folder / "tests.yaml").write_text(beside_a_healthy_installation(UNIT_TESTS.read_text()))
    return run(promtool, folder, "test", "rules", "tests.yaml")


def check(promtool: str, folder: Path, named: dict[str, str]) -> tuple[int, str]:
    """Have promtool parse expressions, wrapped into recording rules."""
    rules = [
        {"record": f"check:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(named.values())
    ]
    path = folder / "expressions.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    return run(promtool, folder, "check", "rules", path.name)


def test_every_expression_of_alerts_and_dashboard_is_promql(promtool: str, tmp_path: Path) -> None:
    code, said = check(promtool, tmp_path, expressions())
    assert code == 0, said


def test_the_rules_and_the_templates_of_their_texts_are_prometheuss(
    promtool: str, tmp_path: Path
) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(alert_groups()))
    code, said = run(promtool, tmp_path, "check", "rules", "--lint-fatal", "rules.yaml")
    assert code == 0, said


def test_an_expression_that_is_no_promql_is_found(promtool: str, tmp_path: Path) -> None:
    code, said = check(promtool, tmp_path, {"bad": "sum by (x (ray_serve_proxy_status)"})
    assert code != 0
    assert "could not parse expression" in said


def test_the_alerts_fire_when_they_should_and_only_then(promtool: str, tmp_path: Path) -> None:
    code, said = unit_test(promtool, tmp_path, alert_groups())
    assert code == 0, said


@pytest.mark.parametrize("alert", [
    rule["alert"] for group in alert_groups()["groups"] for rule in group["rules"]
])  # fmt: skip
def test_an_alert_that_never_fires_is_found(promtool: str, tmp_path: Path, alert: str) -> None:
    rules = alert_groups()
    for group in rules["groups"]:
        for rule in group["rules"]:
            if rule["alert"] == alert:
                rule["expr"] = "vector(0) > 1"
    code, said = unit_test(promtool, tmp_path, rules)
    assert code != 0
    assert alert in said


def test_alerts_and_panels_keep_the_namespaces_apart() -> None:
    for where, expression in expressions().items():
        if where.startswith("alert"):
            assert not re.search(r"\b(sum|max|avg|count)\b(?! by \(namespace\b)", expression), where
        else:
            series = re.sub(r"by \([^)]*\)", "", expression)
            assert not re.search(METRIC.pattern + r"\b(?!\{namespace=\"\$namespace\")", series), (
                where
            )


def test_the_policy_by_which_an_installation_is_missed_is_in_production() -> None:
    (name,) = set(re.findall(r'networkpolicy="([^"]+)"', expressions()["alert ServiceNotSeen"]))
    names = {one["metadata"]["name"] for one in of_kind(rendered("production"), "NetworkPolicy")}
    assert name in names


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for group in alert_groups()["groups"]:
        for rule in group["rules"]:
            assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
            assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule["alert"]


def test_every_panel_has_its_own_place_and_an_explanation() -> None:
    panels = dashboard()["panels"]
    assert len({one["id"] for one in panels}) == len(panels)
    cells = [
        (x, y)
        for one in panels
        for x in range(one["gridPos"]["x"], one["gridPos"]["x"] + one["gridPos"]["w"])
        for y in range(one["gridPos"]["y"], one["gridPos"]["y"] + one["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(one.get("description") for one in panels if one["type"] != "row")


def test_every_metric_of_ours_in_panels_and_alerts_exists_with_these_labels() -> None:
    own = own_metrics()
    used = {
        where: expression for where, expression in expressions().items() if "ray_dsd" in expression
    }
    assert len(used) > 20
    for where, expression in used.items():
        names = {name for name in metrics_in(expression) if name.startswith("ray_dsd")}
        assert names <= set(own), where
        known = OF_EVERY_SERIES.union(*(own[name] for name in names))
        assert labels_in(expression) <= known, where


def test_every_metric_of_ours_is_watched() -> None:
    """On the dashboard or in an alert: what nobody looks at needs no counting."""
    watched = {re.sub("_(bucket|sum|count)$", "", name) for name in METRIC.findall(
        " ".join(expressions().values()))}  # fmt: skip
    own = {re.sub("_(bucket|sum|count)$", "", name) for name in own_metrics()}
    assert own - watched == {
        # What can't change between two looks, and what only explains another.
        "ray_dsd_ready_seconds",
        "ray_dsd_out_of_memory_total",
        "ray_dsd_overload_refused_total",
        "ray_dsd_prompt_embeddings_total",
    }


def test_the_reasons_that_alerts_select_are_the_policys() -> None:
    given: set[str] = set()
    for finish_s in ({"a": 1, "b": 1}, {"a": 3, "b": 1}, {"a": 3, "b": 3}):
        rule = QualityFirst(("a", "b"), 2, 0.7, 10)
        given.add(rule.decide(finish_s, None, 0).reason)
    text = " ".join(expressions().values())
    selected = set(re.findall(r'reason="([^"]+)"', text))
    assert selected == given - {"the best, in time"}


def test_operations_says_what_to_do_about_every_alert() -> None:
    rows = re.findall(r"^\| (\w+) \| ", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    alerts = [rule["alert"] for group in alert_groups()["groups"] for rule in group["rules"]]
    assert sorted(set(alerts) & set(rows)) == sorted(alerts)


def test_the_metrics_of_an_expression_are_told_from_its_labels() -> None:
    expression = 'sum by (ray_io_group) (rate(ray_serve_x_total{a="ray_serve_y"}[5m]))'
    assert metrics_in(expression) == {"ray_serve_x_total"}
