"""What another replica brings, over a denoiser whose steps take a fixed time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests import replicas
from tests.commands import run_main
from tests.machine import HANG_S, ROOT


def measure(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "loadtests.replicas", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )


@pytest.mark.thorough
def test_two_replicas_draw_more_than_one_and_what_the_service_adds_is_told(tmp_path: Path) -> None:
    done = measure(
        "--counts", "1,2", "--rounds", "1", "--steps", "10", "--step-ms", "8",
        "--out", str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    one, two = result["counts"]
    assert (one["replicas"], two["replicas"]) == (1, 2)
    # One replica can't be faster than its device, nor two than twice that.
    assert one["images_per_s"]["median"] <= 1 / 0.080
    assert two["images_per_s"]["median"] > 1.2 * one["images_per_s"]["median"]
    assert one["single_s"] > 0.080
    assert 0 < one["added_ms"] < 150
    assert one["front_cpu_ms"]["median"] > 0
    assert one["open_loop_requests"] >= 100
    text = (tmp_path / "replicas-fixed-step.md").read_text()
    assert "efficiency" in text
    assert text in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--counts", "1,x"], "counts: '1,x' was given", id="counts"),
        pytest.param(["--rounds", "0"], "rounds, steps, step-ms: must be", id="rounds"),
        pytest.param(["--variant", "huge"], "variant: 'huge' was given", id="variant"),
    ],
)
def test_what_it_cannot_do_is_one_clear_line(arguments: list[str], complaint: str) -> None:
    done = run_main(replicas.main, *arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert complaint in done.stderr


@pytest.mark.thorough
def test_gpus_that_are_not_there_are_told_by_number() -> None:
    done = measure("--real", "--counts", "50")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "50 replicas need 50 GPUs" in done.stderr
