"""The overlay's serve configuration: what it asks for, and what stands in for a GPU."""

from typing import Any

Config = dict[str, Any]

# The deployment that doesn't draw.
ROUTER = "router"
# Of `AppArgs`, what a device that isn't there can't have.
_DEVICE_ARGS = {"family", "weights_dir", "verify_hashes", "safety_checker", "device"}


def variants(config: Config) -> list[str]:
    """The deployments of the first application that draw."""
    deployments = config["applications"][0]["deployments"]
    return [one["name"] for one in deployments if one["name"] != ROUTER]


def options(config: Config) -> dict[str, Config]:
    return {
        deployment["name"]: deployment.get("ray_actor_options", {})
        for app in config["applications"]
        for deployment in app.get("deployments", [])
    }


def use_fixed_steps(config: Config, step_s: float) -> None:
    """Keep topology, bounds and timeouts, but have every denoising step sleep for `step_s`."""
    for app in config["applications"]:
        kept = {name: value for name, value in app["args"].items() if name not in _DEVICE_ARGS}
        app["args"] = {**kept, "step_s": step_s}
        app["import_path"] = "loadtests.fixed_step:build_app"


def use_one_replica(config: Config) -> None:
    """Have at most one replica of each variant, under load, too."""
    for app in config["applications"]:
        for deployment in app["deployments"]:
            if deployment["name"] != ROUTER:
                for numbers in (deployment, deployment.get("autoscaling_config", {})):
                    for name in numbers:
                        if name.endswith("_replicas"):
                            numbers[name] = min(numbers[name], 1)
