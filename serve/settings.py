"""Environment and command line to frozen settings; the only reader and writer of `os.environ`."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, FilePath
from pydantic_settings import BaseSettings, SettingsConfigDict

from .variants import FamilyName

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


class LaunchSettings(BaseSettings):
    """What `python -m serve` can be told: `--port 8001`, or `DSD_PORT=8001`."""

    model_config = SettingsConfigDict(
        env_prefix="DSD_",
        frozen=True,
        extra="forbid",
        cli_parse_args=True,
        cli_prog_name="python -m serve",
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
    )

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    family: FamilyName = Field("miniature", description="which weights to serve")
    weights_dir: Path | None = Field(None, description="family folder; needed unless miniature")
    variants: str = Field("", description="a,b: which to serve; all when empty")
    verify_hashes: bool = Field(
        False, description="compare every byte of the weights with their manifest first"
    )
    safety_checker: bool = Field(
        False, description="keep back what the family's safety checker flags"
    )
    auto_slo_s: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="seconds that model: auto tries to keep"
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where the models run")
    num_gpus: float = Field(0, ge=0, description="GPUs that each replica reserves")
    api_keys_file: FilePath | None = Field(
        None, description="names and hashes of API keys; none needed when absent"
    )
    graceful_shutdown_timeout_s: float = Field(
        5, gt=0, description="how long requests under way may take once it is told to stop"
    )
    show_logs: bool = Field(False, description="show the replicas' log lines here, too")
    log_encoding: Literal["TEXT", "JSON"] = Field("TEXT", description="form of the log lines")


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
