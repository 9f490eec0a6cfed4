"""One short run of the benchmark, and the report that it writes."""

import json
import subprocess
import sys
from typing import Any

import pytest

from loadtests.bench.report import regime, render
from tests.machine import ROOT

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A short run, as on a machine that has neither Ray nor pydantic."""
    script = "import sys; sys.modules.update(ray=None, pydantic=None); " + (
        "from loadtests.bench.__main__ import main; sys.exit(main())"
    )
    out = tmp_path_factory.mktemp("reports")
    arguments = ["--variants", "distilled-tiny-vae", "--batches", "1,2,3", "--rounds", "1"]
    arguments += ["--repeats", "1", "--requests", "3", "--loads", "mixed:0.7,uniform:0.5"]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments, "--device", "cpu", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.stderr.count("Traceback") == 0, done.stderr
    last: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    # One round decides no bar.
    assert {bar["state"] for bar in last["bars"]} == {"not run"}
    assert done.returncode == 0
    assert json.loads((out / "bench-miniature-cpu.json").read_text()) == last
    assert (out / "bench-miniature-cpu.md").read_text() in done.stdout
    return last


def test_a_run_measures_every_section_and_its_pictures_agree(result: dict[str, Any]) -> None:
    costs = result["variants"]["distilled-tiny-vae"]
    assert list(costs["batches"]) == ["1", "2", "3"]
    for cell in costs["batches"].values():
        assert cell["parity"] <= 0.5
        assert 0 < cell["peak_share"] < 1
        assert cell["images_per_s"] > 0
    assert {"begin_s", "decode_s", "encode_png_s", "step_s"} <= set(costs["stages"])
    assert result["seed_workload"]["distilled-tiny-vae"]["ours"]["total_s"]["median"] > 0
    assert any("no CUDA device" in line for line in result["not_run"])


def test_a_run_plays_the_engine_under_load_and_simulates_it(result: dict[str, Any]) -> None:
    assert [(cell["mix"], cell["load"]) for cell in result["policies"]["cells"]] == [
        ("mixed", 0.7),
        ("uniform", 0.5),
    ]
    assert result["decoding"]["throughput_ratio"]["median"] > 0
    assert result["previews"]["ways"]["asked"]["shown"] >= 1
    assert result["cancels"]["cancels"] == 15
    assert len(result["forecast"]) == 2
    simulated = result["simulation"]
    assert {one["policy"] for one in simulated["against_measured"]} >= {"batch", "step"}
    assert [one["name"] for one in simulated["elsewhere"]] == ["A100", "T4", "H200"]


def test_the_report_tells_regime_bars_and_what_was_not_run(result: dict[str, Any]) -> None:
    text = render(result)
    assert "27165.7" in text
    assert "- the published architectures in fp16 at 512x512: no CUDA device here." in text
    assert "Not run (no CUDA device here):" in text
    assert "Simulated: the modelled H200" in text
    slow = json.loads(json.dumps(result))
    slow["bars"][0] |= {"found": "0.900x", "state": "missed"}
    slow["profiles"] = [
        {"variant": "original", "batch": 1, "step_ms": 2.0, "busy": 0.5,
         "operators": [{"name": "conv", "share": 0.7, "calls": 3.0}]}
    ]  # fmt: skip
    text = render(slow)
    assert "0.900x | **missed** |" in text
    assert "the GPU busy for 50%" in text
    assert "| `conv` | 70.0% | 3 |" in text


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.05, "saturated"), (0.3, "between"), (0.8, "launch-bound"), (None, "not decided")],
)
def test_the_regime_is_named(result: dict[str, Any], share: float | None, words: str) -> None:
    changed = json.loads(json.dumps(result))
    changed["variants"]["distilled-tiny-vae"]["stages"]["step_fixed_share"] = share
    assert regime(changed).startswith(words)
