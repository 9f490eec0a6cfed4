"""The overlay's serve configuration: what it asks for, and what stands in for a GPU."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import yaml

from .overlay import Manifest

Config = dict[str, Any]

# The deployment that doesn't draw.
ROUTER = "router"
# Of `AppArgs`, what a device that isn't there can't have.
_DEVICE_ARGS = ("family", "weights_dir", "verify_hashes", "safety_checker", "device")


def read(ray_service: Manifest) -> Config:
    """`serveConfigV2`, as the operator converts it before it PUTs it."""
    config: Config = yaml.safe_load(ray_service["spec"]["serveConfigV2"])
    return config


def served_family(config: Config) -> str:
    """The family that the first application serves."""
    return str(config["applications"][0].get("args", {}).get("family", "miniature"))


def api_keys_file(config: Config) -> str | None:
    """Where the first application looks for API keys; None where it requires none."""
    path: str | None = config["applications"][0].get("args", {}).get("api_keys_file")
    return path


def with_fixed_steps(config: Config, step_s: float) -> Config:
    """The same topology, but every denoising step sleeps for `step_s`.

    Deployments keep their placement, bounds and timeouts; only what needs a device or its weights
    goes.
    """
    changed = deepcopy(config)
    for app in changed["applications"]:
        kept = {
            name: value for name, value in app.get("args", {}).items() if name not in _DEVICE_ARGS
        }
        app["import_path"] = "loadtests.fixed_step:build_app"
        app["args"] = {**kept, "step_s": step_s}
    return changed


def with_replicas(config: Config, most: int) -> Config:
    """The same, but with at most so many replicas of a variant, under load, too."""
    changed = deepcopy(config)
    for app in changed["applications"]:
        for deployment in app["deployments"]:
            scaling = deployment.get("autoscaling_config")
            if deployment["name"] != ROUTER and scaling:
                for name in ("min_replicas", "initial_replicas", "max_replicas"):
                    if scaling.get(name):
                        scaling[name] = min(scaling[name], most)
            elif deployment["name"] != ROUTER and deployment.get("num_replicas"):
                deployment["num_replicas"] = min(deployment["num_replicas"], most)
    return changed


def with_less_cpu(config: Config, deployment: str) -> Config:
    """The same, but one deployment asks for a little less: its replicas have to be replaced."""
    changed = deepcopy(config)
    for app in changed["applications"]:
        for one in app["deployments"]:
            if one["name"] == deployment:
                options = one.setdefault("ray_actor_options", {})
                options["num_cpus"] = round(0.9 * options.get("num_cpus", 1), 3)
    return changed


def with_argument(config: Config, **arguments: Any) -> Config:
    """The configuration with other arguments of its first application."""
    changed = deepcopy(config)
    changed["applications"][0].setdefault("args", {}).update(arguments)
    return changed


def variants(config: Config) -> list[str]:
    """The deployments of the first application that draw."""
    deployments = config["applications"][0]["deployments"]
    return [one["name"] for one in deployments if one["name"] != ROUTER]


def options(config: Config) -> dict[str, Config]:
    """Each deployment's `ray_actor_options`."""
    return {
        deployment["name"]: deployment.get("ray_actor_options", {})
        for app in config["applications"]
        for deployment in app.get("deployments", [])
    }


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    """Whether a node with these labels is what a selector asks for.

    Of Ray's forms: `value`, `!value`, `in(a,b)` and `!in(a,b)`.
    """
    for name, wanted in selector.items():
        negated = wanted.startswith("!")
        text = wanted.removeprefix("!")
        inner = text.removeprefix("in(").removesuffix(")") if text.startswith("in(") else text
        allowed = [one.strip() for one in inner.split(",")]
        if (labels.get(name) in allowed) == negated:
            return False
    return True
