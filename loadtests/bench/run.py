"""A whole run: every section in turn, as plain data."""

import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from serve.pipelines.devices import DeviceName, resolve_device
from serve.pipelines.pipeline import Pipeline
from serve.variants import Family, FamilyName, family

from ..machine import commit
from ..published import PROMPT, STEPS
from .bars import bars
from .contenders import Ours, Stock
from .extrapolation import (
    TOLERANCE,
    against_measured,
    measured_device,
    modelled_tables,
    simulated_table,
)
from .overlap import Scope, compare_decoding, compare_previews, count_cancels
from .policies import Traffic, compare_policies, forecast_errors
from .sections import OPTIMISATIONS, against_stock, flop_per_picture, seed_workload, stages
from .step_profile import profile_step
from .timing import Clock, device_name, held_memory_bytes, matmul_peak, peak_memory_bytes


@dataclass(frozen=True)
class Plan:
    """What to measure, and how often; `traffic` and `beside` are of the engine under load."""

    device: DeviceName
    family: FamilyName
    variants: tuple[str, ...]
    batches: tuple[int, ...]
    rounds: int
    traffic: Traffic
    beside: Scope
    simulated_requests: int


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
        "optimisations": asdict(OPTIMISATIONS),
        "matmul_flop_per_s": peak,
        "variants": {},
    }
    contenders: dict[str, tuple[Ours, Stock]] = {}
    try:
        for name in plan.variants:
            ours, stock, costs = _load(chosen, name, folder, plan, clock)
            contenders[name] = ours, stock
            batches = ", ".join(map(str, plan.batches))
            tell(f"{name}: stages, and against stock at batch {batches} ...")
            costs["stages"] = stages(ours, plan.batches, plan.rounds, clock)
            costs["batches"] = {
                str(batch): against_stock(
                    ours, stock, batch, costs["flop_per_picture"], peak, plan.rounds, clock
                )
                for batch in plan.batches
            }
            result["variants"][name] = costs
        tell("the seed workload ...")
        result["seed_workload"] = seed_workload(contenders, plan.rounds, clock)
        result |= _under_load(
            {name: ours for name, (ours, _) in contenders.items()}, result, plan, clock, tell
        )
        found = bars(result)
        result["bars"] = [asdict(bar) for bar in found]
        if any(bar.state == "missed" for bar in found):
            tell("a bar is missed: where a step's time goes ...")
            result["profiles"] = [
                profile_step(contenders[plan.variants[0]][0], batch)
                for batch in sorted({plan.batches[0], plan.batches[-1]})
            ]
    finally:
        for ours, _ in contenders.values():
            ours.close()
    return result


def _under_load(
    variants: dict[str, Ours],
    result: dict[str, Any],
    plan: Plan,
    clock: Clock,
    tell: Callable[[str], object],
) -> dict[str, Any]:
    """The engine's policies and what it does beside the steps, measured; then simulated."""
    costs = {name: one["stages"] for name, one in result["variants"].items()}
    # The cheapest: most requests in the time there is.
    cheapest = min(variants, key=lambda name: result["variants"][name]["flop_per_picture"])
    # Where decoding weighs most, whatever it overlaps with shows best.
    decoding = max(
        variants,
        key=lambda name: costs[name]["decode_s"]["median"] / min(variants[name].call_s.values()),
    )
    tell(f"{cheapest}: policies under the same arrivals ...")
    policies, calls = compare_policies(variants[cheapest], plan.traffic, tell)
    tell(f"{decoding}: decoding beside the steps; previews; cancels ...")
    found = {
        "policies": policies,
        "forecast": forecast_errors(policies["cells"]),
        "decoding": compare_decoding(variants[decoding], plan.beside),
        "previews": compare_previews(variants[decoding], plan.beside, clock),
        "cancels": count_cancels(variants[cheapest], plan.beside),
    }
    tell("the simulation ...")
    device = measured_device(calls, costs[cheapest]["begin_s"]["median"])
    found["simulation"] = {
        "device": {"call_s": device.call_s, "begin_s": device.begin_s, "decode_s": device.decode_s},
        "tolerance": TOLERANCE,
        "against_measured": against_measured(policies, device),
        "here": simulated_table(
            f"`{cheapest}` here", device, policies["cap"], plan.simulated_requests
        ),
        "elsewhere": modelled_tables(plan.simulated_requests),
    }
    return found


def _load(
    chosen: Family, name: str, folder: Path, plan: Plan, clock: Clock
) -> tuple[Ours, Stock, dict[str, Any]]:
    variant = chosen.variants[name]
    device, _ = resolve_device(plan.device)
    held_bytes = held_memory_bytes(device)
    started_s = time.perf_counter()
    pipeline = Pipeline.load([variant], folder, plan.device, OPTIMISATIONS)
    clock.now_s()
    loaded_s = time.perf_counter()
    ours = Ours(pipeline, variant)
    swept_s = time.perf_counter()
    ours.draw(PROMPT, [0], STEPS)
    clock.now_s()
    first_s = time.perf_counter()
    # A replica's largest calls, before stock takes memory of its own.
    ours.draw(PROMPT, range(max(plan.batches)), STEPS)
    stock = Stock(variant, folder, plan.device)
    costs = {
        "load_s": loaded_s - started_s,
        "first_picture_s": first_s - swept_s,
        "cap": ours.settings.cap,
        "sweep_s": {str(images): seconds for images, seconds in ours.call_s.items()},
        "peak_memory_bytes": peak_memory_bytes(device) - held_bytes,
        "flop_per_picture": flop_per_picture(stock.eager, variant),
    }
    return ours, stock, costs
