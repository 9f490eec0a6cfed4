"""A group grows for a replica that waits, for no other, and never over its bound."""

from typing import Any

import pytest

from deploy.rehearsal.autoscaler import Autoscaler
from deploy.rehearsal.serve_config import read
from deploy.rehearsal.translation import groups

from .ray_service import overlay

GROWING = {"labels": {"gpu": "big"}, "maxReplicas": 3}


def applications(
    deployment: str, state: str, node_ip: str | None, running: int = 2
) -> dict[str, Any]:
    """One replica in this state, beside some that run."""
    others = [{"state": "RUNNING", "node_ip": "10.0.0.3"}] * running
    replica = {"state": state, "node_ip": node_ip}
    return {"app": {"deployments": {deployment: {"replicas": [replica, *others]}}}}


def asked_twice(apps: dict[str, Any], pods: int = 2, grows: bool = True) -> list[str | None]:
    of = overlay(group=GROWING, enableInTreeAutoscaling=grows)
    by_name = {one.name: (one, pods) for one in groups(of.ray_service)}
    config = read(of.ray_service)
    autoscaler = Autoscaler()
    return [
        autoscaler.group_to_grow(by_name, config, apps, now_s=now_s) for now_s in (0.0, 10.0, 11.0)
    ]


def test_a_replica_that_keeps_waiting_gets_one_worker() -> None:
    assert asked_twice(applications("original", "STARTING", None)) == [None, "big", None]


@pytest.mark.parametrize(
    ("apps", "pods", "grows"),
    [
        pytest.param(applications("original", "STARTING", "10.0.0.2"), 2, True, id="placed"),
        pytest.param(applications("original", "RUNNING", None), 2, True, id="running"),
        pytest.param(applications("original", "STARTING", None, 3), 3, True, id="at-its-bound"),
        pytest.param(applications("original", "STARTING", None, 1), 2, True, id="a-gpu-is-free"),
        pytest.param(applications("router", "STARTING", None), 2, True, id="needs-no-gpu"),
        pytest.param(applications("original", "STARTING", None), 2, False, id="no-autoscaler"),
    ],
)
def test_no_other_replica_makes_a_group_grow(apps: dict[str, Any], pods: int, grows: bool) -> None:
    assert asked_twice(apps, pods, grows) == [None, None, None]


def test_a_replica_that_no_group_fits_makes_none_grow() -> None:
    of = overlay(group={"labels": {"gpu": "small"}, "maxReplicas": 3}, enableInTreeAutoscaling=True)
    by_name = {one.name: (one, 2) for one in groups(of.ray_service)}
    apps = applications("original", "STARTING", None)
    autoscaler = Autoscaler()
    for now_s in (0.0, 10.0):
        assert autoscaler.group_to_grow(by_name, read(of.ray_service), apps, now_s) is None
