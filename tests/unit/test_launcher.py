"""What `make serve` refuses before anything is started, and how it is told."""

import os
import shutil
import socket
import subprocess
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import psutil
import pytest

from serve import __main__ as launcher
from serve.config import AppArgs
from serve.errors import ServingError
from serve.settings import prepare_ray_environment
from tests.commands import run_main
from tests.machine import ROOT, free_port


def test_too_little_memory_is_told_with_both_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=2**30))
    with pytest.raises(ServingError, match=r"memory: 1\.0 GiB available, 3\.1 GiB needed"):
        launcher._check_memory(AppArgs())
    with pytest.raises(ServingError, match=r"5\.1 GiB needed; serve fewer with --variants"):
        launcher._check_memory(AppArgs(variants=("all",)))


def test_fewer_devices_than_are_asked_for_are_told_with_both_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["serve", "--num-gpus", "50"])
    settings = launcher.LaunchSettings()
    with pytest.raises(ServingError, match="num_gpus: 50 for each variant are 150, but 2 are here"):
        launcher._check_room(settings, 3, {"GPU": 2, "CPU": 1})
    with pytest.raises(ServingError, match=r"num_cpus: 0\.25 for each variant are 1\.5, but 1 are"):
        launcher._check_room(settings, 6, {"GPU": 300, "CPU": 1})
    launcher._check_room(settings, 3, {"GPU": 150, "CPU": 1})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--port", "99999"], "port: '99999' was given", id="port"),
        pytest.param(["--family", "sd-v1"], "weights_dir: not given", id="no-weights"),
        pytest.param(["--family", "sd-v9"], "family: 'sd-v9' was given", id="family"),
        pytest.param(["--weights-dir", "/nowhere"], "'/nowhere' is not a folder", id="folder"),
        pytest.param(["--variants", "huge"], "variants: 'huge' was given; allowed", id="variant"),
        pytest.param(
            ["--api-keys-file", "nowhere"], "api_keys_file: 'nowhere' was given", id="keys"
        ),
    ],
)
def test_what_it_cannot_serve_is_one_clear_line(arguments: list[str], complaint: str) -> None:
    if "--port" not in arguments:
        arguments = [*arguments, "--port", str(free_port())]
    done = run_main(launcher.main, *arguments)
    assert done.returncode == 1
    assert "Ready" not in done.stdout
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("distilled-sd-serve: ")
    assert complaint in done.stderr


def test_a_taken_port_is_told_and_nothing_started() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_main(launcher.main, "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"distilled-sd-serve: port: can't listen on 127.0.0.1:{port}")


_TOO_LONG = OSError(
    "validate_socket_filename failed: AF_UNIX path length cannot exceed 107 bytes: /tmp/x/plasma"
)
_TIMED_OUT = Exception("The current node timed out during startup. This could happen because\n...")


@pytest.mark.parametrize(
    ("faults", "complaint"),
    [
        pytest.param([_TOO_LONG], "point TMPDIR, or RAY_TMPDIR, to a folder", id="long-path"),
        pytest.param([ConnectionError()], "ConnectionError; its logs", id="without-words"),
        pytest.param([_TIMED_OUT, _TIMED_OUT], "the machine may be busy", id="timed-out-twice"),
    ],
)
def test_a_ray_that_cannot_start_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, faults: list[Exception], complaint: str
) -> None:
    monkeypatch.setattr("ray.init", Mock(side_effect=faults))
    done = run_main(launcher.main, "--port", free_port())
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("distilled-sd-serve: Ray can't start: ")
    assert complaint in done.stderr


def test_a_ray_that_timed_out_is_started_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["serve"])
    monkeypatch.setattr("ray.init", Mock(side_effect=[_TIMED_OUT, "a context"]))
    assert launcher._start_ray(launcher.LaunchSettings()) == "a context"


@pytest.mark.parametrize(
    ("arguments", "longest_s"),
    [
        pytest.param([], 3600, id="cpu"),
        pytest.param(["--num-gpus", "1"], 105, id="gpu"),
        pytest.param(["--max-request-s", "30"], 30, id="given"),
    ],
)
def test_a_request_may_take_longer_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], longest_s: float
) -> None:
    monkeypatch.setattr("sys.argv", ["serve", *arguments])
    assert launcher.LaunchSettings().longest_request_s == longest_s


def test_an_ipv6_address_stands_in_brackets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["serve", "--host", "::1"])
    text = launcher._ready_text(launcher.LaunchSettings(), ["distilled"], "logs")
    assert "http://[::1]:8000/v1/images" in text


def test_settings_come_from_the_environment_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["serve"])
    monkeypatch.setenv("DSD_PORT", "8123")
    monkeypatch.setenv("DSD_LOG_ENCODING", "JSON")
    settings = launcher.LaunchSettings()
    assert (settings.port, settings.log_encoding) == (8123, "JSON")


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


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_a_missing_python_is_one_clear_line(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    refused = subprocess.run(
        ["make", "--silent", "serve", "PYTHON="], cwd=tmp_path, capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert "needs Python 3.11 or newer" in refused.stderr
