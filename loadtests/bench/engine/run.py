"""A whole run: every section in turn, as plain data."""

import asyncio
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from serve.pipelines.devices import DeviceName, device_name, resolve_device
from serve.pipelines.pipeline import Pipeline
from serve.variants import Family, FamilyName, family

from ...machine import commit
from ...published import PROMPT, STEPS
from .bars import bars
from .contenders import Ours, Stock
from .load import compare_policies
from .sections import OPTIMISATIONS, against_stock, flop_per_picture, seed_workload, stages
from .timing import Clock, allocated_bytes, matmul_peak


@dataclass(frozen=True)
class EngineRun:
    """What to measure, and how often; `requests` and `load_rounds` are of each of the `loads`."""

    device: DeviceName
    family: FamilyName
    variants: tuple[str, ...]
    batches: tuple[int, ...]
    rounds: int
    loads: tuple[float, ...]
    requests: int
    load_rounds: int
    steps: int = STEPS


def measure(run: EngineRun, folder: Path, progress: Callable[[str], object]) -> dict[str, Any]:
    """Every section, as plain data; `progress` gets a line before each."""
    device, dtype = resolve_device(run.device)
    clock, known = Clock(device), family(run.family)
    variant = known.variants[run.variants[0]]
    progress(f"{device_name(device)}: the matmul peak ...")
    result: dict[str, Any] = {
        "benchmark": "engine",
        "commit": commit(),
        "device": device_name(device),
        "dtype": str(dtype).removeprefix("torch."),
        "clock": clock.name,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "family": run.family,
        "size_px": variant.default_size_px,
        "guidance_scale": variant.guidance_scale,
        "steps": run.steps,
        "rounds": run.rounds,
        "optimisations": asdict(OPTIMISATIONS),
        "matmul_flop_per_s": matmul_peak(device, dtype, clock),
        "variants": {},
    }
    contenders: dict[str, tuple[Ours, Stock]] = {}
    try:
        for name in run.variants:
            ours, stock, costs = _load(known, name, folder, run, clock)
            contenders[name] = ours, stock
            batches = ", ".join(map(str, run.batches))
            progress(f"{name}: stages, and against stock at batch {batches} ...")
            costs["stages"] = stages(ours, run.batches, run.rounds, clock)
            costs["batches"] = {}
            for batch in run.batches:
                cell = against_stock(ours, stock, batch, run.steps, run.rounds, clock)
                cell["images_per_s"] = batch / cell["ours_s"]["median"]
                flop_per_s = costs["flop_per_picture"] * cell["images_per_s"]
                cell["peak_share"] = flop_per_s / result["matmul_flop_per_s"]
                costs["batches"][str(batch)] = cell
            result["variants"][name] = costs
        progress("the seed workload ...")
        result["seed_workload"] = seed_workload(contenders, run.steps, min(run.rounds, 3), clock)
        # The cheapest: most requests in the time there is.
        cheapest = min(run.variants, key=lambda name: result["variants"][name]["flop_per_picture"])
        progress(f"{cheapest}: policies under the same arrivals ...")
        result["policies"] = asyncio.run(
            compare_policies(
                contenders[cheapest][0], run.loads, run.requests, run.load_rounds, progress
            )
        )
        result["bars"] = [asdict(bar) for bar in bars(result)]
    finally:
        for ours, _ in contenders.values():
            ours.close()
    return result


def _load(
    known: Family, name: str, folder: Path, run: EngineRun, clock: Clock
) -> tuple[Ours, Stock, dict[str, Any]]:
    variant = known.variants[name]
    device, _ = resolve_device(run.device)
    before_bytes = allocated_bytes(device)
    started_s = time.perf_counter()
    pipeline = Pipeline.load([variant], folder, run.device, OPTIMISATIONS)
    clock.now_s()
    loaded_s = time.perf_counter()
    ours = Ours(pipeline, variant)
    swept_s = time.perf_counter()
    ours.draw(PROMPT, [0], run.steps)
    clock.now_s()
    first_s = time.perf_counter()
    # A replica's largest calls, before stock takes memory of its own.
    ours.draw(PROMPT, range(max(run.batches)), run.steps)
    # A CPU's memory is the whole process's, which says nothing of a variant.
    peak_bytes = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    stock = Stock(variant, folder, run.device)
    costs = {
        "load_s": loaded_s - started_s,
        "first_picture_s": first_s - swept_s,
        "cap": ours.settings.cap,
        "peak_memory_bytes": peak_bytes - before_bytes,
        "flop_per_picture": flop_per_picture(stock.eager, variant, run.steps),
    }
    return ours, stock, costs
