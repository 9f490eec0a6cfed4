"""Which bars a run meets, misses, or cannot decide."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from loadtests.bench.bars import Bar, bars


def spread(median: float, count: int = 5) -> dict[str, float]:
    return {"median": median, "low": 0.9 * median, "high": 1.1 * median, "count": count}


def result(device: str, family: str) -> dict[str, Any]:
    """A run that meets everything, from the other variants' FLOPs on."""
    flop = {"original": 20.0, "distilled": 13.0, "distilled-tiny-vae": 12.0}
    rates = {"original": 9.0, "distilled": 14.0, "distilled-tiny-vae": 15.0}

    def cell(name: str) -> dict[str, Any]:
        return {
            "ours_s": spread(0.2),
            "images_per_s": rates[name],
            "speed_against_stock": spread(2.5),
            "peak_share": 0.55,
        }

    return {
        "device": device,
        "family": family,
        "variants": {
            name: {
                "flop_per_picture": one,
                "batches": {batch: cell(name) for batch in ("1", "2", "4", "8")},
            }
            for name, one in flop.items()
        },
        "seed_workload": {
            name: {"ours": {"total_s": spread(1.0), "speed_against_original": spread(20.0 / one)}}
            for name, one in flop.items()
        },
        "policies": {
            "repeats": 5,
            "saturation": {"mixed": {"step_against_batch": spread(1.05)}},
            "cells": [
                {"mix": "mixed", "load": 0.5, "mean_against_batch": {"step": spread(0.99)}},
                {"mix": "mixed", "load": 0.7, "mean_against_batch": {"step": spread(0.75)}},
            ],
        },
    }


CPU = result("CPU, some", "miniature")
H200 = result("NVIDIA H200", "sd-v1")


def states(found: dict[str, Any], start: str) -> list[str]:
    return [bar.state for bar in bars(found) if bar.name.startswith(start)]


def test_a_cpu_run_decides_the_miniatures_bars_and_names_the_others() -> None:
    assert set(states(CPU, "miniature")) == {"met"}
    assert len(states(CPU, "miniature")) == 3 + 2 + 2
    assert {(bar.state, bar.found) for bar in bars(CPU) if not bar.name.startswith("mini")} == {
        ("not run", "no CUDA device here")
    }


def test_an_h200_decides_its_own() -> None:
    assert set(states(H200, "GPU")) == set(states(H200, "H200")) == {"met"}
    assert set(states(H200, "miniature")) == {"not run"}


def test_another_gpu_decides_only_what_holds_for_all() -> None:
    other = H200 | {"device": "NVIDIA L4"}
    assert set(states(other, "GPU")) == {"met"}
    assert set(states(other, "H200")) == {"not run"}


def change(path: list[str | int], value: object) -> Callable[[dict[str, Any]], None]:
    def changed(found: dict[str, Any]) -> None:
        inner: Any = found
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return changed


@pytest.mark.parametrize(
    ("run", "changed", "missed"),
    [
        pytest.param(
            CPU, change(["variants", "distilled", "batches", "1", "speed_against_stock"],
                        spread(0.96)),
            "miniature on a CPU: `distilled` against stock, one image", id="slower-than-stock",
        ),
        pytest.param(
            CPU, change(["policies", "cells", 1, "mean_against_batch", "step"], spread(0.91)),
            "miniature on a CPU: how far `step` cuts", id="latency-on-a-cpu",
        ),
        pytest.param(
            H200, change(["policies", "cells", 1, "mean_against_batch", "step"], spread(0.81)),
            "GPU: how far `step` cuts", id="latency-on-a-gpu",
        ),
        pytest.param(
            CPU, change(["policies", "saturation", "mixed", "step_against_batch"], spread(0.96)),
            "miniature on a CPU: `step` against `batch`", id="throughput",
        ),
        pytest.param(
            CPU, change(["seed_workload", "distilled", "ours", "speed_against_original"],
                        spread(1.2)),
            "miniature on a CPU: `distilled` against `original`", id="not-as-its-flop",
        ),
        pytest.param(
            CPU, change(["seed_workload", "distilled-tiny-vae", "ours", "speed_against_original"],
                        spread(1.5)),
            "miniature on a CPU: `distilled-tiny-vae` against `original`", id="order",
        ),
        pytest.param(
            H200, change(["variants", "original", "batches", "1", "ours_s"], spread(0.25)),
            "H200: one image of `original`", id="one-image",
        ),
        pytest.param(
            H200, change(["variants", "distilled", "batches", "8", "images_per_s"], 10.3),
            "H200: `distilled`, batch 8", id="batch-8",
        ),
        pytest.param(
            H200, change(["variants", "original", "batches", "4", "speed_against_stock"],
                         spread(1.4)),
            "H200: `original` against stock, batch 4", id="stock-at-4",
        ),
    ],
)  # fmt: skip
def test_a_figure_beyond_its_bar_misses_that_one(
    run: dict[str, Any], changed: Callable[[dict[str, Any]], None], missed: str
) -> None:
    slow = copy.deepcopy(run)
    changed(slow)
    (bar,) = (bar for bar in bars(slow) if bar.state == "missed")
    assert bar.name.startswith(missed)


def test_a_goal_is_no_bar() -> None:
    slow = copy.deepcopy(H200)
    change(["variants", "original", "batches", "8", "peak_share"], 0.4)(slow)
    (missed,) = (bar for bar in bars(slow) if bar.state == "missed")
    assert missed == Bar(
        "H200, goal beyond: `original`, batch 8", "at least 0.5 of the matmul peak",
        "0.4 of the peak", "missed", goal=True,
    )  # fmt: skip


def test_too_few_repeats_decide_nothing() -> None:
    short = copy.deepcopy(CPU)
    change(["policies", "repeats"], 2)(short)
    undecided = [bar for bar in bars(short) if bar.found == "2 repeats, and it takes 5"]
    assert len(undecided) == 2
    change(["variants", "original", "batches", "1", "speed_against_stock"], spread(0.5, 1))(short)
    change(["seed_workload", "distilled", "ours", "total_s"], spread(1.0, 1))(short)
    assert [bar.found for bar in bars(short)].count("1 rounds, and it takes 3") == 2


def test_what_a_run_left_out_is_named() -> None:
    short = copy.deepcopy(H200)
    del short["variants"]["original"]["batches"]["8"]
    short["policies"]["cells"].pop()
    reasons = {bar.found for bar in bars(short) if bar.state == "not run"}
    assert reasons >= {
        "no batch of 8 of `original` in this run", "no mixed steps at 70 % load in this run",
    }  # fmt: skip
