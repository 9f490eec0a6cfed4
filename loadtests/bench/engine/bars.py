"""What this benchmark must show on the machine that it ran on."""

from collections.abc import Iterator
from typing import Any

from ...published import IMAGES_A_CALL
from ...rounds import Spread
from ..bars import Bar, Finding

# Fewer decide nothing, of contenders in turn and of policies under load.
_ROUNDS, _LOAD_ROUNDS = 3, 5
# "About the size of the FLOPs": how far a measured ratio may be off that of the FLOPs.
_FLOP_TOLERANCE = 0.15
_H200_IMAGES_PER_S = {"original": 6.8, "distilled": 10.4, "distilled-tiny-vae": 11.3}


def bars(result: dict[str, Any]) -> list[Bar]:
    """Those of the device and the family that were measured; there may be none."""
    kind = "CPU" if result["device"].startswith("CPU") else "GPU"
    found: list[Bar] = []
    if (kind, result["family"]) == ("CPU", "miniature"):
        found += [
            Bar.at_least(f"`{name}` against stock, one image", 0.97, "x", _speed(costs, "1"))
            for name, costs in result["variants"].items()
        ]
        found += _policy_bars(10, result.get("policies"))
        if "seed_workload" in result:
            found += _flop_bars(result)
    if (kind, result["family"]) == ("GPU", "sd-v1"):
        found += _policy_bars(20, result.get("policies"))
        if "H200" in result["device"]:
            found += _h200_bars(result["variants"])
    return found


def _policy_bars(percent: int, policies: dict[str, Any] | None) -> Iterator[Bar]:
    cut: Finding = "not measured"
    throughput: Finding = "not measured"
    if policies is not None and policies["rounds"] < _LOAD_ROUNDS:
        cut = throughput = f"{policies['rounds']} rounds, and it takes {_LOAD_ROUNDS}"
    elif policies is not None:
        for load in policies["loads"]:
            if load["load"] == 0.7:
                ratio = Spread(**load["policies"]["step"]["mean_against_batch"])
                cut = 100 * (1 - ratio.median), f"mean at {ratio.text()} of `batch`'s"
        ratio = Spread(**policies["step_against_batch"])
        throughput = ratio.median, f"{ratio.text()}x"
    yield Bar.at_least(
        "how far `step` cuts `batch`'s mean latency at 70 % load", percent, " %", cut
    )
    yield Bar.at_least(
        "`step` against `batch` in throughput from a full queue",
        0.97, "x", throughput,
    )  # fmt: skip


def _flop_bars(result: dict[str, Any]) -> Iterator[Bar]:
    first, *others = result["variants"]
    flop = {name: costs["flop_per_picture"] for name, costs in result["variants"].items()}
    speeds = {
        name: Spread(**ways["ours"]["speed_against_original"])
        for name, ways in result["seed_workload"].items()
    }
    for name, before in zip(others, [first, *others], strict=False):
        wanted, speed = flop[first] / flop[name], speeds[name]
        off: Finding = abs(speed.median / wanted - 1), f"{speed.text()}x, FLOP ratio {wanted:.2f}"
        gain: Finding = speed.median / speeds[before].median, f"{speed.median:.2f}x `{first}`"
        if speed.count < _ROUNDS:
            off = gain = _too_few(speed)
        what = f"`{name}` against `{first}`, batch {IMAGES_A_CALL}"
        yield Bar.at_most(f"{what}: distance from the FLOP ratio", _FLOP_TOLERANCE, "", off)
        yield Bar.at_least(f"{what}: in `{before}`'s speed", 1, "x", gain)


def _h200_bars(variants: dict[str, Any]) -> Iterator[Bar]:
    def figure(name: str, batch: str, key: str, unit: str) -> Finding:
        cell = variants.get(name, {"batches": {}})["batches"].get(batch)
        if cell is None:
            return f"no batch of {batch} of `{name}` in this run"
        value = cell[key]["median"] if isinstance(cell[key], dict) else cell[key]
        return value, f"{value:.3g}{unit}"

    single = figure("original", "1", "ours_s", " s")
    yield Bar.at_most("H200: one image of `original`", 0.24, " s", single)
    for name, wanted in _H200_IMAGES_PER_S.items():
        rate = figure(name, "8", "images_per_s", " images/s")
        yield Bar.at_least(f"H200: `{name}`, batch 8", wanted, " images/s", rate)
    for batch, wanted in (("1", 2.0), ("4", 1.5)):
        for name, costs in variants.items():
            yield Bar.at_least(
                f"H200: `{name}` against stock, batch {batch}", wanted, "x", _speed(costs, batch)
            )


def _speed(costs: dict[str, Any], batch: str) -> Finding:
    if batch not in costs["batches"]:
        return f"no batch of {batch} in this run"
    ratio = Spread(**costs["batches"][batch]["speed_against_stock"])
    return _too_few(ratio) if ratio.count < _ROUNDS else (ratio.median, f"{ratio.text()}x")


def _too_few(spread: Spread) -> str:
    return f"{spread.count} rounds, and it takes {_ROUNDS}"
