"""One quick run of the benchmark of what HTTP and Ray Serve cost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests import haproxy
from tests.machine import ROOT

REASON = haproxy.missing()
pytestmark = [pytest.mark.thorough, pytest.mark.skipif(bool(REASON), reason=REASON)]


def test_a_quick_run_measures_everything_and_decides_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "loadtests.bench.serving", "--quick", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert {bar["state"] for bar in result["bars"]} == {"not decided"}
    parts = result["parts"]
    # Ten steps of 16 ms: neither can be faster than the device.
    for name in ("engine", "JSON", "bytes"):
        assert parts["single"][name][0]["p50_ms"] > 160
    for name in ("engine", "JSON"):
        assert parts["saturated"][name][0]["per_s"] < 20
    spent = parts["router"]["router"][0]["cpu_ms"]
    assert min(spent[role] for role in ("HAProxy", "router", "replica", "client")) > 0
    assert parts["router"]["FastAPI"][0]["cpu_ms"]["FastAPI"] > 0
    # Above all it decodes the picture.
    generation, edit = (parts["edits"][name][0]["cpu_ms"] for name in ("generation", "edit"))
    assert edit["router"] > generation["router"]
    # One replica can't be faster than its device, of 25 steps, nor two than twice that.
    single, double = (parts["replicas"][count][0]["per_s"] for count in ("1", "2"))
    assert single < 2.5
    assert 1.2 * single < double < 5
    text = (tmp_path / "serving-fixed-step.md").read_text()
    assert text in done.stdout
    assert "not decided" in text
