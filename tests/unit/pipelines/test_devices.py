"""Measuring on a GPU that other processes use, too; with made-up GPUs."""

import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from serve.pipelines import compile
from serve.pipelines.compile import device_seconds
from serve.pipelines.devices import measuring

CUDA = torch.device("cuda")
HOLDER = """
import fcntl, sys
with open(sys.argv[1]) as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    properties = SimpleNamespace(uuid="GPU-1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    return properties


def test_who_hangs_holds_nobody_up_for_long_and_who_dies_not_at_all(
    gpu: SimpleNamespace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "ray.serve")
    with measuring(CUDA):
        (lock,) = tmp_path.iterdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        for uuid, waits in (("GPU-1", True), ("GPU-2", False)):
            gpu.uuid = uuid
            with measuring(CUDA, longest_wait_s=0.1):
                assert ("another process has measured" in caplog.text) is waits
            caplog.clear()
    finally:
        holder.kill()
        holder.communicate()
    gpu.uuid = "GPU-1"
    with measuring(CUDA, longest_wait_s=0):
        assert not caplog.records


def test_without_a_lock_it_measures_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    for device in (CUDA, torch.device("cpu")):
        with measuring(device):
            assert not list(tmp_path.iterdir())


def test_of_several_timings_the_least_disturbed_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    # A call that warms up, then five.
    takes = iter((9.0, 1.5, 1.0, 4.0, 1.25, 2.0))
    now_s = 0.0

    def call() -> None:
        nonlocal now_s
        now_s += next(takes)

    monkeypatch.setattr(compile, "time", SimpleNamespace(perf_counter=lambda: now_s))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert device_seconds(call) == 1.0
    assert next(takes, None) is None
