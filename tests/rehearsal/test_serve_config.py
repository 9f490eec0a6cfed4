"""What stands in for a GPU changes nothing of where replicas go."""

import pytest

from deploy.rehearsal.overlay import with_pods
from deploy.rehearsal.quantities import whole
from deploy.rehearsal.serve_config import (
    Config,
    matches,
    options,
    read,
    served_family,
    variants,
    with_argument,
    with_fixed_steps,
    with_less_cpu,
    with_replicas,
)
from deploy.rehearsal.translation import groups
from loadtests.fixed_step import FixedStepArgs, build_app

from .ray_service import overlay

CONFIG = read(overlay().ray_service)


def test_fixed_steps_keep_deployments_and_keys_and_drop_what_needs_a_device() -> None:
    (app,) = with_fixed_steps(CONFIG, 0.1)["applications"]
    assert app["deployments"] == CONFIG["applications"][0]["deployments"]
    assert app["args"] == {
        "max_image_steps": 100,
        "api_keys_file": "/keys/keys.txt",
        "max_requests_per_key": 8,
        "step_s": 0.1,
    }
    assert CONFIG["applications"][0]["args"]["family"] == served_family(CONFIG) == "sd-v1"


def test_the_application_of_fixed_steps_takes_those_arguments() -> None:
    (app,) = with_fixed_steps(CONFIG, 0.1)["applications"]
    assert app["import_path"] == f"{build_app.__module__}:{build_app.__name__}"
    assert FixedStepArgs.model_validate(app["args"]).step_s == 0.1


def test_variants_have_fewer_replicas_and_the_router_its_own() -> None:
    config: Config = {
        "applications": [
            {
                "deployments": [
                    {"name": "router", "num_replicas": 3},
                    {"name": "a", "autoscaling_config": {"min_replicas": 2, "max_replicas": 4}},
                    {"name": "b", "num_replicas": 2},
                    {"name": "c", "autoscaling_config": {"min_replicas": 0, "max_replicas": 4}},
                ]
            }
        ]
    }
    router, a, b, c = with_replicas(config, 1)["applications"][0]["deployments"]
    assert router["num_replicas"] == 3
    assert a["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 1}
    assert b["num_replicas"] == 1
    assert c["autoscaling_config"]["min_replicas"] == 0


def test_groups_begin_with_fewer_pods() -> None:
    assert [one.pods for one in groups(with_pods(overlay(), 1).ray_service)] == [1, 1]
    assert [one.pods for one in groups(with_pods(overlay(), 5).ray_service)] == [1, 2]


def test_only_the_named_deployment_asks_for_less() -> None:
    router, original, distilled = with_less_cpu(CONFIG, "original")["applications"][0][
        "deployments"
    ]
    assert original["ray_actor_options"]["num_cpus"] == 0.9
    assert [router, distilled] == [
        CONFIG["applications"][0]["deployments"][0],
        CONFIG["applications"][0]["deployments"][2],
    ]


def test_the_variants_are_the_deployments_but_the_router() -> None:
    assert variants(CONFIG) == ["original", "distilled"]


def test_a_deployments_options_are_found_by_its_name() -> None:
    assert options(CONFIG) == {
        "router": {},
        "original": {"num_gpus": 1, "label_selector": {"gpu": "big"}},
        "distilled": {"num_gpus": 1},
    }


def test_another_argument_leaves_the_configuration_itself() -> None:
    changed = with_argument(CONFIG, stuck_after_s=1)
    assert changed["applications"][0]["args"]["stuck_after_s"] == 1
    assert "stuck_after_s" not in CONFIG["applications"][0]["args"]


@pytest.mark.parametrize(
    ("selector", "label", "fits"),
    [
        pytest.param("a", "a", True, id="equal"),
        pytest.param("a", "b", False, id="other"),
        pytest.param("a", None, False, id="missing"),
        pytest.param("!a", "b", True, id="not"),
        pytest.param("!a", "a", False, id="not-but-equal"),
        pytest.param("in(a, b)", "b", True, id="in"),
        pytest.param("in(a,b)", "c", False, id="not-in-list"),
        pytest.param("!in(a,b)", "c", True, id="excluded"),
        pytest.param("!in(a,b)", "a", False, id="excluded-but-equal"),
    ],
)
def test_a_selector_fits_as_rays_does(selector: str, label: str | None, fits: bool) -> None:
    labels = {} if label is None else {"gpu": label}
    assert matches({"gpu": selector}, labels) == fits


@pytest.mark.parametrize(
    ("quantity", "number"),
    [("500m", 1), ("2", 2), (3, 3), ("1Gi", 2**30), ("1.5Gi", 3 * 2**29), ("1G", 10**9)],
)
def test_a_quantity_is_rounded_up(quantity: str | int, number: int) -> None:
    assert whole(quantity) == number


@pytest.mark.parametrize("quantity", ["", "x", "1Xi", "Gi"])
def test_no_quantity_is_refused(quantity: str) -> None:
    with pytest.raises(ValueError, match="no Kubernetes quantity"):
        whole(quantity)
