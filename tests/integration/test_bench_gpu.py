"""The GPU script whole, on a CPU with the miniature: every question works but for the device."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from loadtests.bench.gpu.__main__ import LIMITS_S
from loadtests.bench.gpu.findings import Journal
from loadtests.bench.gpu.questions import CHANGES, STEPS
from serve.pipelines.optimisations import Optimisations
from tests.machine import ROOT


def test_every_step_has_a_time_limit() -> None:
    assert list(STEPS) == list(LIMITS_S)


def test_ablate_changes_every_switch_that_makes_a_call_faster() -> None:
    others = {"cpu_threads", "embedding_cache", "deterministic"}
    switched = {name for switches, _ in CHANGES.values() for name in switches}
    assert switched == {field.name for field in fields(Optimisations)} - others


@pytest.mark.thorough
@pytest.mark.timeout(3600)  # Ten minutes are little for it on a busy machine.
def test_a_rehearsal_on_a_cpu_answers_every_question(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtests.bench.gpu", "--out", str(tmp_path)]
    command += ["--device", "cpu", "--family", "miniature", "--budget", "3600"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + (tmp_path / "log.txt").read_text()[-3000:]
    found = {(it.step, it.what): it.value for it in Journal(tmp_path).read()}
    assert {step for step, _ in found} == set(LIMITS_S)
    for variant in ("original", "distilled", "distilled-tiny-vae"):
        for kind in ("no optimisation", "as shipped"):
            parity = found["smoke", f"{kind}: `{variant}` against stock, mean difference"]
            assert parity <= 0.5
    assert found["smoke", "as shipped: the engine draws the same twice"] is True
    assert "skipped" in found["tests", "tests/gpu"]
    # A rehearsal is no measurement.
    assert "README" not in (tmp_path / "findings.md").read_text()
