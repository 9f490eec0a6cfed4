"""What a benchmark of the pipelines measures, section by section, as plain data."""

import gc
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from serve.devices import DeviceName, resolve_device
from serve.generation import PictureFormat
from serve.images import encode
from serve.optimisations import Optimisations
from serve.pipelines import Pipeline
from serve.variants import Family, FamilyName, family

from ..machine import commit
from ..published import CALLS, IMAGES_A_CALL, PROMPT, STEPS
from .contenders import Contender, Ours, Stock
from .timing import (
    Clock,
    Spread,
    alternate,
    device_name,
    held_memory_bytes,
    matmul_peak,
    peak_memory_bytes,
    ratios,
)

# Ours and stock share the models, which therefore stay as diffusers loads them; and torch counts no
# FLOPs of a call that is replayed. Every call has the same prompt: kept, it would cost nothing, and
# requests' prompts differ.
EAGER = Optimisations(
    channels_last=False,
    attention="default",
    compile=False,
    cuda_graphs=False,
    embedding_cache=0,
)


@dataclass(frozen=True)
class Plan:
    """What to measure, and how often."""

    device: DeviceName
    family: FamilyName
    variants: tuple[str, ...]
    batches: tuple[int, ...]
    rounds: int


def measure(plan: Plan, folder: Path, tell: Callable[[str], object]) -> dict[str, Any]:
    """Every section, as plain data; `tell` hears of each before it runs."""
    device, dtype = resolve_device(plan.device)
    clock, chosen = Clock(device), family(plan.family)
    variant = chosen.variants[plan.variants[0]]
    tell(f"{device_name(device)}: the matmul peak ...")
    peak = matmul_peak(device, dtype, clock)
    result: dict[str, Any] = {
        "benchmark": "pipelines",
        "commit": commit(),
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "clock": clock.name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "family": plan.family,
        "size_px": variant.default_size_px,
        "guidance_scale": variant.guidance_scale,
        "steps": STEPS,
        "rounds": plan.rounds,
        "compiled": False,
        "matmul_flop_per_s": peak,
        "variants": {},
    }
    contenders: dict[str, tuple[Ours, Stock]] = {}
    for name in plan.variants:
        held_bytes = held_memory_bytes(device)
        ours, stock, costs = _load(chosen, name, folder, plan.device, clock)
        contenders[name] = ours, stock
        tell(f"{name}: stages, and against stock at batch {', '.join(map(str, plan.batches))} ...")
        costs["stages"] = _stages(ours, plan, clock)
        costs["batches"] = {
            batch: _against_stock(ours, stock, batch, costs["flop_per_picture"], peak, plan, clock)
            for batch in plan.batches
        }
        costs["peak_memory_bytes"] = peak_memory_bytes(device) - held_bytes
        result["variants"][name] = costs
    tell("the seed workload ...")
    result["seed_workload"] = _seed_workload(contenders, plan, clock)
    return result


def _load(
    chosen: Family, name: str, folder: Path, device_name: DeviceName, clock: Clock
) -> tuple[Ours, Stock, dict[str, Any]]:
    variant = chosen.variants[name]
    started_s = time.perf_counter()
    pipeline = Pipeline.load([variant], folder, device_name, EAGER)
    clock.now_s()
    loaded_s = time.perf_counter()
    ours, stock = Ours(pipeline, variant), Stock(pipeline, variant)
    ours.draw(PROMPT, [0], STEPS)
    clock.now_s()
    first_s = time.perf_counter()
    costs = {
        "load_s": loaded_s - started_s,
        "first_picture_s": first_s - loaded_s,
        "flop_per_picture": _flop_per_picture(ours),
    }
    return ours, stock, costs


def _flop_per_picture(ours: Ours) -> int:
    """Multiplications and additions of one picture, counted as torch runs them."""
    with FlopCounterMode(display=False) as counter:
        trajectories = ours.begin(PROMPT, [0], STEPS)
    around = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        ours.pipeline.step(trajectories)
    step = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        ours.pipeline.decode(trajectories)
    return int(around + step * trajectories[0].total_steps + counter.get_total_flops())


def _stages(ours: Ours, plan: Plan, clock: Clock) -> dict[str, Any]:
    """Seconds of each stage; UNet steps by images in a call (with guidance twice as many)."""
    pipeline = ours.pipeline
    repeats = max(7, plan.rounds)
    # Long enough to have a step left for every repeat.
    drawn = {batch: ours.begin(PROMPT, range(batch), repeats + 1) for batch in plan.batches}
    one = drawn[plan.batches[0]][:1]
    pixels = pipeline.decode(one)[0]
    stages: dict[str, Callable[[], Any]] = {
        "begin": partial(ours.begin, PROMPT, [0], STEPS),
        "decode": partial(pipeline.decode, one),
        "encode_png": partial(encode, pixels, PictureFormat("png", 90)),
    }
    for batch in plan.batches:
        stages[f"step {batch}"] = partial(pipeline.step, drawn[batch])
    alternate(stages, 1, clock)  # Warms up.
    seconds = alternate(stages, repeats, clock)
    steps = {batch: Spread.of(seconds[f"step {batch}"]) for batch in plan.batches}
    return {
        **{
            f"{name}_s": asdict(Spread.of(seconds[name]))
            for name in ("begin", "decode", "encode_png")
        },
        "step_s": {batch: asdict(spread) for batch, spread in steps.items()},
        "step_fixed_share": fixed_share({batch: one.median for batch, one in steps.items()}),
    }


def fixed_share(step_s: dict[int, float], batch: int = IMAGES_A_CALL) -> float | None:
    """How much of a step of `batch` images doesn't grow with their number.

    From the least-squares line `a + b * images` through the measured times: `a / (a + b * batch)`,
    between 0 and 1; None with fewer than three points.
    """
    if len(step_s) < 3:
        return None
    slope, intercept = np.polyfit(list(step_s), list(step_s.values()), 1)
    return float(np.clip(intercept / (intercept + slope * batch), 0, 1))


def _against_stock(
    ours: Ours, stock: Stock, batch: int, flop: int, peak: float, plan: Plan, clock: Clock
) -> dict[str, Any]:
    seeds = range(batch)
    # Also warms up; the pictures must be the same ones.
    parity = _difference(ours.draw(PROMPT, seeds, STEPS), stock.draw(PROMPT, seeds, STEPS))
    seconds = alternate(
        {
            "ours": partial(ours.draw, PROMPT, seeds, STEPS),
            "stock": partial(stock.draw, PROMPT, seeds, STEPS),
        },
        plan.rounds,
        clock,
    )
    drawn = Spread.of(seconds["ours"])
    return {
        "ours_s": asdict(drawn),
        "stock_s": asdict(Spread.of(seconds["stock"])),
        "speed_against_stock": asdict(ratios(seconds["stock"], seconds["ours"])),
        "images_per_s": batch / drawn.median,
        "peak_share": flop * batch / drawn.median / peak,
        "parity": parity,
    }


def _difference(ours: Sequence[Image.Image], theirs: Sequence[Image.Image]) -> float:
    """Mean absolute difference of the pictures' 8-bit values."""
    pairs = zip(ours, theirs, strict=True)
    return float(
        np.mean([np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)) for a, b in pairs])
    )


def _seed_workload(
    contenders: dict[str, tuple[Ours, Stock]], plan: Plan, clock: Clock
) -> dict[str, Any]:
    """12 images in three calls: every variant both ways, in turn within each round."""

    def run(contender: Contender) -> None:
        for call in range(CALLS):
            first = call * IMAGES_A_CALL
            contender.draw(PROMPT, range(first, first + IMAGES_A_CALL), STEPS)

    runs = {}
    for name, (ours, stock) in contenders.items():
        runs[f"{name} ours"] = partial(run, ours)
        runs[f"{name} stock"] = partial(run, stock)
    seconds = alternate(runs, min(plan.rounds, 5), clock)
    first = next(iter(contenders))
    return {
        name: {
            way: {
                "total_s": asdict(Spread.of(seconds[f"{name} {way}"])),
                "speed_against_original": asdict(
                    ratios(seconds[f"{first} {way}"], seconds[f"{name} {way}"])
                ),
            }
            for way in ("ours", "stock")
        }
        for name in contenders
    }


def run_architecture(
    folder: Path, device: DeviceName, tell: Callable[[str], object]
) -> dict[str, Any]:
    """One step and one decode of each full-size variant: that they load, not how fast they are."""
    chosen, found = family("sd-v1"), {}
    for name, variant in chosen.variants.items():
        tell(f"{name}, full size: one step ...")
        started_s = time.perf_counter()
        ours = Ours(Pipeline.load([variant], folder, device, EAGER), variant)
        trajectories = ours.begin(PROMPT, [0], 1)
        ours.pipeline.step(trajectories)
        picture = ours.pipeline.decode(trajectories)
        found[name] = {
            "picture": list(picture.shape[1:]),
            "finite": bool(torch.isfinite(trajectories[0].latents).all()),
            "load_step_decode_s": time.perf_counter() - started_s,
        }
        del ours, trajectories
        gc.collect()
    return found
