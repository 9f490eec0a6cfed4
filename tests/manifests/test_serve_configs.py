"""What each overlay's serve configuration is for; checks.py has what all of them must be."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve.config import AppArgs
from tests.manifests.monitoring import expressions
from tests.manifests.rendering import NAMES, OVERLAYS

ON_GPUS = [name for name in NAMES if name != "laptop"]


def application(overlay: str) -> dict[str, Any]:
    content = yaml.safe_load((OVERLAYS / overlay / "serve-config.yaml").read_text())
    (one,) = content["applications"]
    assert isinstance(one, dict)
    return one


def variants(overlay: str) -> list[dict[str, Any]]:
    return [one for one in application(overlay)["deployments"] if one["name"] != "router"]


def test_the_laptops_file_says_what_the_code_does_without_it() -> None:
    args = AppArgs()
    # Without the file Serve has no time limit that this one must be less than.
    assert AppArgs.model_validate(application("laptop")["args"]) == AppArgs(max_request_s=105)
    for deployment in variants("laptop"):
        assert deployment["num_replicas"] == args.num_replicas
        assert deployment["max_ongoing_requests"] == args.max_ongoing_requests
        assert deployment["max_queued_requests"] == args.max_queued_requests
        assert deployment["graceful_shutdown_timeout_s"] == args.graceful_shutdown_timeout_s
        assert deployment["ray_actor_options"] == {
            "num_cpus": args.num_cpus,
            "num_gpus": args.num_gpus,
        }


@pytest.mark.parametrize("overlay", NAMES)
def test_the_application_is_named_as_alerts_and_dashboard_select_it(overlay: str) -> None:
    named = {
        name
        for expression in expressions().values()
        for name in re.findall(r'application="([^"]+)"', expression)
    }
    assert named == {application(overlay)["name"]}


@pytest.mark.parametrize("overlay", ON_GPUS)
def test_a_gpus_variants_have_their_share_and_the_queues_that_the_router_counts_on(
    overlay: str,
) -> None:
    args = AppArgs.model_validate(application(overlay)["args"])
    assert args.device == "cuda"
    for one in variants(overlay):
        assert one["ray_actor_options"]["num_gpus"] > 0
        assert one["max_ongoing_requests"] == args.max_ongoing_requests
        assert one["max_queued_requests"] == args.max_queued_requests
    # checks.py compares the whole request's time with Serve's own.
    assert args.max_queue_s < (args.max_request_s or 0)


@pytest.mark.parametrize("overlay", NAMES)
def test_only_a_laptop_needs_no_key_and_only_production_checks_pictures(overlay: str) -> None:
    args = AppArgs.model_validate(application(overlay)["args"])
    assert (args.api_keys_file is None) == (overlay == "laptop")
    assert args.safety_checker == (overlay == "production")


def test_in_production_nothing_is_alone() -> None:
    least = {
        one["name"]: one.get("autoscaling_config", {}).get("min_replicas", one.get("num_replicas"))
        for one in application("production")["deployments"]
    }
    assert min(least.values()) >= 2


@pytest.mark.parametrize("overlay", ["gpu", "production"])
def test_a_replica_is_added_before_its_queue_is_full_and_removed_later_than_added(
    overlay: str,
) -> None:
    for one in variants(overlay):
        scaling = one["autoscaling_config"]
        assert scaling["target_ongoing_requests"] < one["max_ongoing_requests"]
        assert scaling["upscale_delay_s"] < scaling["downscale_delay_s"]


def test_no_serve_config_lies_elsewhere() -> None:
    root = OVERLAYS.parent
    found = {path.relative_to(root) for path in root.rglob("serve-config*.yaml")}
    folders = [Path("examples", "my-cluster"), *(Path("overlays", name) for name in NAMES)]
    assert found == {folder / "serve-config.yaml" for folder in folders}
