"""The whole engine benchmark over few and short requests, and the report that it writes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtests.bench.engine import load
from loadtests.bench.engine.report import render
from loadtests.bench.engine.run import EngineRun, measure
from loadtests.bench.output import publish
from serve.miniature import WEIGHTS_DIR
from tests.machine import ROOT

VARIANT = "distilled-tiny-vae"


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    run = EngineRun("cpu", "miniature", (VARIANT,), (1, 2, 3), 1, (0.7,), 2, 1, steps=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "STEPS_MIX", (1, 2, 3))
        found = measure(run, WEIGHTS_DIR, lambda _: None)
    return {**found, "command": "make bench", "seconds": 1.0, "random_weights": False}


def test_a_run_measures_every_section_and_its_pictures_agree(result: dict[str, Any]) -> None:
    costs = result["variants"][VARIANT]
    assert list(costs["batches"]) == ["1", "2", "3"]
    for cell in costs["batches"].values():
        assert cell["parity"] <= 0.5
        assert 0 < cell["peak_share"] < 1
        assert cell["images_per_s"] > 0
    assert {"begin_s", "decode_s", "encode_png_s", "step_s"} <= set(costs["stages"])
    assert result["seed_workload"][VARIANT]["ours"]["total_s"]["median"] > 0
    (found,) = result["policies"]["loads"]
    for figures in found["policies"].values():
        assert [len(latencies) for latencies in figures["latencies_s"]] == [2]
        assert 0 < figures["p50_s"] <= figures["p95_s"]
    # One round decides no bar.
    assert {bar["state"] for bar in result["bars"]} == {"not decided"}


def test_the_report_is_written_and_the_last_line_is_the_result(
    result: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = render(result)
    assert "27165.7" in text
    assert "1 rounds, and it takes 3" in text
    assert publish(result, text, tmp_path, "bench") == 0
    printed = capsys.readouterr().out
    assert json.loads(printed.splitlines()[-1]) == result
    assert (tmp_path / "bench.md").read_text() == text
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    result = json.loads(json.dumps(result))
    result["bars"][0]["state"] = "missed"
    assert publish(result, text, tmp_path, "bench") == 1


def test_it_starts_where_there_is_neither_ray_nor_pydantic() -> None:
    # A borrowed GPU machine has torch and diffusers. An import contract keeps it so once it runs.
    script = "import sys; sys.modules.update(ray=None, pydantic=None, aiohttp=None); " + (
        "from loadtests.bench.engine.__main__ import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--device" in done.stdout
