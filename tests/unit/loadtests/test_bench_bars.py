"""Which bars a run meets, misses, or cannot decide."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from loadtests.bench.engine.bars import bars


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
                "flop_per_picture": figure,
                "batches": {batch: cell(name) for batch in ("1", "2", "4", "8")},
            }
            for name, figure in flop.items()
        },
        "seed_workload": {
            name: {"ours": {"speed_against_original": spread(20.0 / figure)}}
            for name, figure in flop.items()
        },
        "policies": {
            "rounds": 5,
            "step_against_batch": spread(1.05),
            "loads": [
                {"load": load, "policies": {"step": {"mean_against_batch": spread(mean)}}}
                for load, mean in ((0.5, 0.99), (0.7, 0.75))
            ],
        },
    }


CPU = result("CPU, some", "miniature")
H200 = result("NVIDIA H200", "sd-v1")


@pytest.mark.parametrize(
    ("run", "count"),
    [
        pytest.param(CPU, 3 + 2 + 4, id="miniature-on-a-cpu"),
        pytest.param(H200, 2 + 1 + 3 + 6, id="h200"),
        pytest.param(H200 | {"device": "NVIDIA L4"}, 2, id="another-gpu"),
        pytest.param(CPU | {"family": "sd-v1"}, 0, id="nothing-to-hold-it-to"),
    ],
)
def test_a_run_has_the_bars_of_its_device_and_family(run: dict[str, Any], count: int) -> None:
    assert [bar.state for bar in bars(run)] == ["met"] * count


def change(path: list[str | int], value: object) -> Callable[[dict[str, Any]], None]:
    def changed(found: dict[str, Any]) -> None:
        inner: Any = found
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value

    return changed


AT_70_PERCENT: list[str | int] = ["policies", "loads", 1, "policies", "step", "mean_against_batch"]


@pytest.mark.parametrize(
    ("run", "changed", "missed"),
    [
        pytest.param(
            CPU, change(["variants", "distilled", "batches", "1", "speed_against_stock"],
                        spread(0.96)),
            "`distilled` against stock, one image", id="slower-than-stock",
        ),
        pytest.param(
            CPU, change(AT_70_PERCENT, spread(0.91)),
            "how far `step` cuts", id="latency-on-a-cpu",
        ),
        pytest.param(
            H200, change(AT_70_PERCENT, spread(0.81)),
            "how far `step` cuts", id="latency-on-a-gpu",
        ),
        pytest.param(
            CPU, change(["policies", "step_against_batch"], spread(0.96)),
            "`step` against `batch`", id="throughput",
        ),
        pytest.param(
            CPU, change(["seed_workload", "distilled", "ours", "speed_against_original"],
                        spread(1.2)),
            "`distilled` against `original`, batch 4: distance", id="not-as-its-flop",
        ),
        pytest.param(
            CPU, change(["seed_workload", "distilled-tiny-vae", "ours", "speed_against_original"],
                        spread(1.5)),
            "`distilled-tiny-vae` against `original`, batch 4: in `distilled`", id="order",
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


def test_too_few_rounds_decide_nothing() -> None:
    short = copy.deepcopy(CPU)
    change(["policies", "rounds"], 2)(short)
    change(["variants", "original", "batches", "1", "speed_against_stock"], spread(0.5, 1))(short)
    change(["seed_workload", "distilled", "ours", "speed_against_original"], spread(1.0, 1))(short)
    found = [bar.found for bar in bars(short) if bar.state == "not decided"]
    assert found.count("2 rounds, and it takes 5") == 2
    assert found.count("1 rounds, and it takes 3") == 3


def test_a_bar_without_its_figure_is_not_decided() -> None:
    short = copy.deepcopy(H200)
    del short["variants"]["original"]["batches"]["8"]
    assert {bar.found for bar in bars(short) if bar.state == "not decided"} == {
        "no batch of 8 of `original` in this run"
    }
