import os
import socket
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from serve import __main__ as launcher
from serve.app import AppArgs
from serve.errors import ServingError
from serve.settings import prepare_ray_environment

ROOT = Path(__file__).parents[2]


def test_too_little_memory_is_told_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30))
    with pytest.raises(ServingError, match=r"memory: 1\.0 GiB available, 3\.1 GiB needed"):
        launcher._check_memory(AppArgs())


def test_main_reports_an_obstacle_and_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("sys.argv", ["serve", "--port", str(port)])
        assert launcher.main() == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("distilled-sd-serve: port: ")


def test_settings_come_from_the_environment_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["serve"])
    monkeypatch.setenv("DSD_PORT", "8123")
    monkeypatch.setenv("DSD_LOG_ENCODING", "JSON")
    settings = launcher.LaunchSettings()
    assert (settings.port, settings.log_encoding) == (8123, "JSON")


def test_a_missing_file_of_keys_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["serve", "--api-keys-file", "nowhere"])
    assert launcher.main() == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("distilled-sd-serve: api_keys_file: 'nowhere' was given")


def test_the_example_sends_a_key_only_where_one_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "keys").touch()
    monkeypatch.setattr("sys.argv", ["serve"])
    assert "Authorization" not in launcher._ready_text(launcher.LaunchSettings(), ["x"], "logs")
    monkeypatch.setenv("DSD_API_KEYS_FILE", str(tmp_path / "keys"))
    assert "Bearer KEY" in launcher._ready_text(launcher.LaunchSettings(), ["x"], "logs")


def test_unhealthy_replicas_are_killed_here_as_on_a_cluster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS"
    monkeypatch.delenv(name, raising=False)
    prepare_ray_environment()
    assert f"{name}={os.environ[name]}" in (ROOT / "deploy/base/ray.env").read_text().splitlines()
