"""What stands in for a GPU changes nothing of where replicas go; the key is the Secret's."""

from pathlib import Path

import pytest

from loadtests.fixed_step import FixedStepArgs, build_app
from serve.keys import KeyFile
from tests.faults.overlay.manifests import OverlayError
from tests.faults.overlay.pods import mounted_at
from tests.faults.overlay.serve_config import (
    matches,
    options,
    use_fixed_steps,
    use_one_replica,
    variants,
)
from tests.faults.overlay.service import add_key
from tests.faults.overlay.translation import groups, secret_mounts

from .ray_service import overlay


def test_fixed_steps_keep_deployments_and_drop_what_needs_a_device() -> None:
    config = overlay().serve_config
    use_fixed_steps(config, 0.1)
    (app,) = config["applications"]
    assert app["deployments"] == overlay().serve_config["applications"][0]["deployments"]
    assert app["import_path"] == f"{build_app.__module__}:{build_app.__name__}"
    assert FixedStepArgs.model_validate(app["args"]).max_image_steps == 100
    assert not {"family", "device", "weights_dir"} & app["args"].keys()


def test_variants_have_one_replica_and_the_router_its_own() -> None:
    config = overlay().serve_config
    use_one_replica(config)
    router, original, distilled = config["applications"][0]["deployments"]
    assert router["num_replicas"] == 3
    assert original["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 1}
    assert distilled["num_replicas"] == 1


def test_worker_groups_have_one_pod_with_room_for_a_replica_more() -> None:
    of = overlay()
    of.use_one_pod()
    assert [(group.pods, group.gpus) for group in groups(of)] == [(1, 0), (1, 2)]


def test_variants_and_options_are_those_of_the_deployments() -> None:
    config = overlay().serve_config
    assert variants(config) == ["original", "distilled"]
    assert options(config)["original"] == {"num_gpus": 1, "label_selector": {"gpu": "big"}}
    assert options(config)["router"] == {}


@pytest.mark.parametrize(
    ("selector", "fitting", "others"),
    [("a", "a", "b"), ("!a", "b", "a"), ("in(a, b)", "ab", "c"), ("!in(a,b)", "c", "ab")],
)
def test_a_selector_fits_as_rays_does(selector: str, fitting: str, others: str) -> None:
    assert all(matches({"gpu": selector}, {"gpu": label}) for label in fitting)
    assert not any(matches({"gpu": selector}, {"gpu": label}) for label in others)
    assert matches({"gpu": selector}, {}) == selector.startswith("!")


def test_the_key_is_in_the_secret_that_the_head_mounts(tmp_path: Path) -> None:
    of = overlay()
    key = add_key(of)
    assert key is not None
    args = of.serve_config["applications"][0]["args"]
    assert args["api_keys_file"] == mounted_at("/keys/keys.txt")
    assert args["max_requests_per_key"] is None
    head, worker = groups(of)
    assert (secret_mounts(head), secret_mounts(worker)) == ({"/keys": "keys"}, {})
    file = tmp_path / "keys.txt"
    file.write_text(of.files["keys"]["keys.txt"])
    keys = KeyFile(file, ["original"])
    assert keys.find(key.encode()) is not None
    assert keys.find(b"dsd-another") is None


def test_without_a_file_of_keys_there_is_none_and_one_in_no_secret_is_named() -> None:
    of = overlay()
    args = of.serve_config["applications"][0]["args"]
    args["api_keys_file"] = "/elsewhere/keys.txt"
    with pytest.raises(OverlayError, match=r"'/elsewhere/keys\.txt' is in no mounted Secret"):
        add_key(of)
    del args["api_keys_file"]
    assert add_key(of) is None
