"""What a benchmark must show: each bar met, missed, or not run and why."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..published import IMAGES_A_CALL

# Fewer repeats decide nothing, here of contenders and there of policies.
_ROUNDS, _REPEATS = 3, 5
# "About the size of the FLOPs": measured ratios over those of the FLOPs may be off by so much.
_FLOP_TOLERANCE = 0.15
_H200_IMAGES_PER_S = {"original": 6.8, "distilled": 10.4, "distilled-tiny-vae": 11.3}

# A bar needs a figure, and what it is; a reason where there is none.
Found = tuple[float, str] | str


@dataclass(frozen=True)
class Bar:
    """`goal` marks what is aimed at, and decides nothing."""

    name: str
    wanted: str
    found: str
    state: Literal["met", "missed", "not run"]
    goal: bool = False


def bars(result: dict[str, Any]) -> list[Bar]:
    """Every bar, those of other devices, too."""
    return [*_on_the_miniature(result), *_on_a_gpu(result)]


def _on_the_miniature(result: dict[str, Any]) -> Iterator[Bar]:
    here = result["family"] == "miniature" and _is_cpu(result)
    where = "" if here else "for the miniature on a CPU"
    for name in result["variants"]:
        yield _at_least(
            f"miniature on a CPU: `{name}` against stock, one image",
            0.97, "x", where or _against_stock(result, name, "1"),
        )  # fmt: skip
    yield from _policies("miniature on a CPU", 10, where, result)
    for name in list(result["variants"])[1:]:
        yield _flop_bar(result, name, where)


def _on_a_gpu(result: dict[str, Any]) -> Iterator[Bar]:
    where = "no CUDA device here" if _is_cpu(result) else ""
    if not where and result["family"] != "sd-v1":
        where = "for the published architectures"
    yield from _policies("GPU", 20, where, result)
    if not where and "H200" not in result["device"]:
        where = "for an H200"
    cells = {name: costs["batches"] for name, costs in result["variants"].items()}

    def figure(name: str, batch: str, value: Callable[[dict[str, Any]], float], unit: str) -> Found:
        if where or batch not in cells.get(name, {}):
            return where or f"no batch of {batch} of `{name}` in this run"
        found = value(cells[name][batch])
        return found, f"{found:.3g}{unit}"

    one = figure("original", "1", lambda cell: float(cell["ours_s"]["median"]), " s")
    yield _bar(
        "H200: one image of `original`", "at most 0.24 s", one, met=lambda found_s: found_s <= 0.24
    )
    for name, wanted in _H200_IMAGES_PER_S.items():
        rate = figure(name, "8", lambda cell: float(cell["images_per_s"]), " images/s")
        yield _at_least(f"H200: `{name}`, batch 8", wanted, " images/s", rate)
    for batch, wanted in (("1", 2.0), ("4", 1.5)):
        for name in result["variants"]:
            found = where or _against_stock(result, name, batch)
            yield _at_least(f"H200: `{name}` against stock, batch {batch}", wanted, "x", found)
    for name in _H200_IMAGES_PER_S:
        share = figure(name, "8", lambda cell: float(cell["peak_share"]), " of the peak")
        yield _at_least(
            f"H200, goal beyond: `{name}`, batch 8", 0.5, " of the matmul peak", share, goal=True
        )


def _policies(device: str, percent: int, where: str, result: dict[str, Any]) -> Iterator[Bar]:
    found: dict[str, Any] = result["policies"]
    if not where and found["repeats"] < _REPEATS:
        where = f"{found['repeats']} repeats, and it takes {_REPEATS}"
    latency: Found = where or "no mixed steps at 70 % load in this run"
    for cell in found["cells"] if not where else ():
        if (cell["mix"], cell["load"]) == ("mixed", 0.7):
            ratio = cell["mean_against_batch"]["step"]
            cut = 100 * (1 - ratio["median"])
            spread = f"{100 * (1 - ratio['high']):.0f} to {100 * (1 - ratio['low']):.0f}"
            latency = cut, f"{cut:.0f} % ({spread})"
    yield _at_least(
        f"{device}: how far `step` cuts `batch`'s mean latency, mixed steps, 70 % load",
        percent, " %", latency,
    )  # fmt: skip
    throughput: Found = where or "no mixed steps in this run"
    if not where and "mixed" in found["saturation"]:
        ratio = found["saturation"]["mixed"]["step_against_batch"]
        throughput = ratio["median"], _spread(ratio)
    yield _at_least(
        f"{device}: `step` against `batch` in throughput from a full queue, mixed steps",
        0.97, "x", throughput,
    )  # fmt: skip


def _flop_bar(result: dict[str, Any], name: str, where: str) -> Bar:
    names = list(result["variants"])
    flop = {one: result["variants"][one]["flop_per_picture"] for one in names}
    wanted = flop[names[0]] / flop[name]
    before = names[names.index(name) - 1]
    speeds = {
        one: result["seed_workload"][one]["ours"]["speed_against_original"]["median"]
        for one in names
    }
    rounds = result["seed_workload"][name]["ours"]["total_s"]["count"]
    found: Found = speeds[name], f"{speeds[name]:.2f}x"
    if rounds < _ROUNDS:
        found = _too_few(rounds)
    return _bar(
        f"miniature on a CPU: `{name}` against `{names[0]}`, batch {IMAGES_A_CALL}",
        f"{wanted:.2f}x, as its FLOPs, within {_FLOP_TOLERANCE:.0%}, and faster than `{before}`",
        where or found,
        met=lambda speed: abs(speed / wanted - 1) <= _FLOP_TOLERANCE and speed > speeds[before],
    )


def _against_stock(result: dict[str, Any], name: str, batch: str) -> Found:
    cell = result["variants"][name]["batches"].get(batch)
    if cell is None:
        return f"no batch of {batch} in this run"
    ratio = cell["speed_against_stock"]
    if ratio["count"] < _ROUNDS:
        return _too_few(ratio["count"])
    return ratio["median"], _spread(ratio)


def _at_least(name: str, wanted: float, unit: str, found: Found, goal: bool = False) -> Bar:
    return _bar(
        name, f"at least {wanted:g}{unit}", found, met=lambda value: value >= wanted, goal=goal
    )


def _bar(
    name: str, wanted: str, found: Found, *, met: Callable[[float], bool], goal: bool = False
) -> Bar:
    if isinstance(found, str):
        return Bar(name, wanted, found, "not run", goal)
    value, shown = found
    return Bar(name, wanted, shown, "met" if met(value) else "missed", goal)


def _is_cpu(result: dict[str, Any]) -> bool:
    return str(result["device"]).startswith("CPU")


def _too_few(rounds: int) -> str:
    return f"{rounds} rounds, and it takes {_ROUNDS}"


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f}x ({ratio['low']:.2f} to {ratio['high']:.2f})"
