"""The whole engine benchmark over few and short requests, and the report that it writes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtests.bench.engine import load
from loadtests.bench.engine.report import render
from loadtests.bench.engine.run import AnotherRun, EngineRun, measure
from loadtests.bench.output import publish
from serve.miniature import WEIGHTS_DIR
from tests.machine import ROOT

VARIANT = "distilled-tiny-vae"


RUN = EngineRun("cpu", "miniature", (VARIANT,), (1, 2, 3), 1, (0.7,), 2, 1, steps=2)


@pytest.fixture(scope="module")
def kept() -> list[dict[str, Any]]:
    """The result after each section."""
    kept: list[dict[str, Any]] = []

    def keep(result: dict[str, Any]) -> None:
        made = {"command": "make bench", "seconds": 1.0, "random_weights": False}
        kept.append(json.loads(json.dumps({**result, **made})))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "STEPS_MIX", (1, 2, 3))
        measure(RUN, WEIGHTS_DIR, lambda _: None, keep)
    return kept


@pytest.fixture(scope="module")
def result(kept: list[dict[str, Any]]) -> dict[str, Any]:
    return kept[-1]


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


def test_each_section_is_kept_when_it_is_made_the_most_valuable_first(
    kept: list[dict[str, Any]],
) -> None:
    assert ["seed_workload" in it for it in kept] == [True] * 6
    assert [len(it["variants"][VARIANT]["batches"]) for it in kept] == [0, 1, 2, 3, 3, 3]
    assert ["policies" in it for it in kept] == [False] * 5 + [True]
    for partial_result in kept:
        assert "27165.7" in render(partial_result)


def test_a_run_continues_another_and_names_what_its_budget_left_out(
    kept: list[dict[str, Any]],
) -> None:
    lines: list[str] = []
    found = measure(RUN, WEIGHTS_DIR, lines.append, earlier=kept[1], budget_s=0)
    assert found["variants"][VARIANT]["batches"] == kept[1]["variants"][VARIANT]["batches"]
    assert found["left_out"] == [
        f"{VARIANT}: against stock, batch 2",
        f"{VARIANT}: against stock, batch 3",
        f"{VARIANT}: stages",
        f"{VARIANT}: policies under the same arrivals",
    ]
    assert "Left out for want of time" in render({**kept[1], **found})
    with pytest.raises(AnotherRun, match="--resume: the earlier run has rounds 1, this one 2"):
        measure(replace(RUN, rounds=2), WEIGHTS_DIR, lines.append, earlier=kept[1])


@pytest.mark.parametrize("command", ["engine.__main__", "gpu.step"])
def test_it_starts_where_there_is_neither_ray_nor_pydantic(command: str) -> None:
    # A borrowed GPU machine has torch and diffusers. An import contract keeps it so once it runs.
    script = "import sys; sys.modules.update(ray=None, pydantic=None, aiohttp=None); " + (
        f"from loadtests.bench.{command} import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "--device" in done.stdout
