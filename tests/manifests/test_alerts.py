"""Alerts and dashboard, read by Prometheus's own tool; tests/integration has the live scrape."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.manifests.monitoring import alert_groups, dashboard, expressions, metrics_in

UNIT_TESTS = Path(__file__).with_name("alerts.test.yaml")


@pytest.fixture(scope="module")
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed; Debian has it in the package prometheus")
    return found


def run(promtool: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [promtool, *arguments], cwd=folder, capture_output=True, text=True, timeout=60
    )


def unit_test(promtool: str, folder: Path, rules: dict[str, Any]) -> tuple[int, str]:
    # promtool would compare the texts, too; they are for people.
    for group in rules["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    (folder / "tests.yaml").write_text(UNIT_TESTS.read_text())
    done = run(promtool, folder, "test", "rules", "tests.yaml")
    return done.returncode, done.stdout + done.stderr


def check(promtool: str, folder: Path, named: dict[str, str]) -> tuple[int, str]:
    """Have promtool parse expressions, wrapped into recording rules."""
    rules = [
        {"record": f"check:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(named.values())
    ]
    path = folder / "expressions.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    done = run(promtool, folder, "check", "rules", path.name)
    return done.returncode, done.stdout + done.stderr


def test_every_expression_of_alerts_and_dashboard_is_promql(promtool: str, tmp_path: Path) -> None:
    code, said = check(promtool, tmp_path, expressions())
    assert code == 0, said


def test_the_rules_and_the_templates_of_their_texts_are_prometheuss(
    promtool: str, tmp_path: Path
) -> None:
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(alert_groups()))
    done = run(promtool, tmp_path, "check", "rules", "--lint-fatal", "rules.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


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


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for group in alert_groups()["groups"]:
        for rule in group["rules"]:
            assert set(rule["annotations"]) == {"summary", "description"}, rule["alert"]
            assert rule["labels"]["severity"] in ("critical", "warning"), rule["alert"]


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


def test_the_metrics_of_an_expression_are_told_from_its_labels() -> None:
    expression = 'sum by (ray_io_group) (rate(ray_serve_x_total{a="ray_serve_y"}[5m]))'
    assert metrics_in(expression) == {"ray_serve_x_total"}
