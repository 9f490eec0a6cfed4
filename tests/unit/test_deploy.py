"""The serve-config files: read by Serve's own schema, and held to the code."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

from serve.app import AppArgs

FILES = sorted((Path(__file__).parents[2] / "deploy").glob("serve-config*.yaml"))


def load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_serves_schema_knows_every_field(path: Path) -> None:
    content = load(path)
    ServeDeploySchema.model_validate(content)
    # Serve itself ignores misspelt keys.
    (application,) = content["applications"]
    assert set(content) <= set(ServeDeploySchema.model_fields)
    assert set(application) <= set(ServeApplicationSchema.model_fields)
    for deployment in application["deployments"]:
        assert set(deployment) <= set(DeploymentSchema.model_fields)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_arguments_and_deployments_are_the_apps(path: Path) -> None:
    app = load(path)["applications"][0]
    args = AppArgs.model_validate(app["args"])
    assert app["import_path"] == "serve.app:build_app"
    assert [one["name"] for one in app["deployments"]] == [
        "original", "distilled", "distilled-tiny-vae",
    ]  # fmt: skip
    assert args.family in ("miniature", "sd-v1")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_replica_may_finish_what_a_request_may_take(path: Path) -> None:
    content = load(path)
    request_timeout_s = content["http_options"]["request_timeout_s"]
    for deployment in content["applications"][0]["deployments"]:
        assert deployment["graceful_shutdown_timeout_s"] >= request_timeout_s


def test_the_laptops_file_says_what_the_code_does_without_it() -> None:
    app = load(next(path for path in FILES if path.name == "serve-config.yaml"))["applications"][0]
    args = AppArgs()
    for deployment in app["deployments"]:
        assert deployment["max_ongoing_requests"] == args.max_ongoing_requests
        assert deployment["max_queued_requests"] == args.max_queued_requests
        assert deployment["graceful_shutdown_timeout_s"] == args.graceful_shutdown_timeout_s
        assert deployment["ray_actor_options"] == {
            "num_cpus": args.num_cpus,
            "num_gpus": args.num_gpus,
        }


def test_the_gpu_file_asks_for_a_gpu_per_replica_and_for_cuda() -> None:
    app = load(next(path for path in FILES if "gpu" in path.name))["applications"][0]
    assert app["args"]["device"] == "cuda"
    assert all(one["ray_actor_options"]["num_gpus"] > 0 for one in app["deployments"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param({"familly": "miniature"}, "familly", id="misspelt"),
        pytest.param({"family": "sd-v9"}, "family", id="family"),
        pytest.param({"variants": "original,nope"}, "'nope' was given", id="variant"),
        pytest.param({"num_gpus": -1}, "num_gpus", id="negative-gpus"),
        pytest.param({"num_gpus": "nan"}, "num_gpus", id="nan-gpus"),
    ],
)
def test_bad_arguments_are_refused_by_name(arguments: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        AppArgs.model_validate(arguments)


def test_the_command_lines_strings_are_understood() -> None:
    args = AppArgs.model_validate({"variants": "original,distilled", "num_gpus": "0.5"})
    assert args.variants == ("original", "distilled")
    assert args.num_gpus == 0.5
