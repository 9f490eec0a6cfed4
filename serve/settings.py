"""The environment to frozen settings; the only writer of `os.environ`.

What `python -m serve` takes from environment and command line is in `__main__`.
"""

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

# Ray's own switches, set before Ray is imported; what the user has set stays.
_RAY_ENVIRONMENT = {
    # Unset, Ray invents a token on the first start and then locks out its own later commands.
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray starts workers at nice 15; then anything else on the machine starves the replicas.
    "RAY_worker_niceness": "0",
    # Its daemons then use the loopback address on Linux, too, as they do on a Mac.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # A replica that fails its health checks is killed, and its requests are drawn by another.
    # Serve would let it drain; but where a device call hangs nothing drains, and who waits is lost.
    "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
}


class CompileSettings(BaseSettings):
    """Where a replica keeps the code that it has compiled for its device."""

    model_config = SettingsConfigDict(env_prefix="DSD_", frozen=True, extra="forbid")

    compile_cache_dir: Path | None = Field(
        None, description="kept between starts; torch's own temporary folder when absent"
    )


class HubSettings(BaseSettings):
    """Where weights are downloaded from; the hub's client reads its own `HF_...` variables."""

    model_config = SettingsConfigDict(env_prefix="DSD_", frozen=True, extra="forbid")

    mirrors: dict[str, str] = Field(
        {}, description='repositories to take in place of others: {"a/b": "c/d@revision"}'
    )


def go_offline() -> None:
    """Keep the model libraries from asking the hub; call before they are imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"


def keep_compiled_code(folder: Path | None) -> None:
    """Let torch find what it compiled in an earlier process; call before it is imported.

    What the user has set for torch stays. Without a folder nothing changes.
    """
    if folder is not None:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
        os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))


def forbid_chance() -> None:
    """Keep torch's libraries from what may add up in another order; call before it is imported."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"


def prepare_ray_environment() -> None:
    """Set Ray's switches for a local cluster; call before `import ray`."""
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
