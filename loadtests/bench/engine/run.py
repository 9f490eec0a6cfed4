"""A whole run: section by section, most valuable first, as plain data."""

import asyncio
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from serve.catalogue import family
from serve.errors import ServingError
from serve.pipelines.devices import DeviceName, device_name, resolve_device
from serve.pipelines.pipeline import Pipeline
from serve.variants import Family, FamilyName

from ...machine import commit
from ...published import PROMPT, STEPS
from .bars import bars
from .contenders import Ours, Stock
from .load import compare_policies
from .sections import OPTIMISATIONS, against_stock, flop_per_picture, seed_workload, stages
from .timing import Clock, allocated_bytes, matmul_peak


class AnotherRun(ServingError):
    """An earlier result that this run can't continue."""


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


@dataclass
class _Sections:
    """Measures what an earlier run hasn't, as long as there is time, and keeps each result."""

    result: dict[str, Any]
    progress: Callable[[str], object]
    keep: Callable[[dict[str, Any]], object]
    budget_s: float
    _began_s: float = field(default_factory=time.monotonic)
    _took_s: dict[str, float] = field(default_factory=dict)

    def measure(
        self,
        what: str,
        found: dict[str, Any],
        key: str,
        work: Callable[[], Any],
        needs_s: float = 0,
    ) -> None:
        """Put what `work` finds into `found[key]`; sections of one key take about as long."""
        if key in found:
            return
        begun_s = time.monotonic()
        needs_s = max(needs_s, self._took_s.get(key, 0.0))
        if begun_s - self._began_s + needs_s > self.budget_s:
            self.result["left_out"].append(what)
            return
        self.progress(f"{what} ...")
        found[key] = work()
        self._took_s[key] = time.monotonic() - begun_s
        self.result["bars"] = [asdict(bar) for bar in bars(self.result)]
        self.keep(self.result)


def measure(
    run: EngineRun,
    folder: Path,
    progress: Callable[[str], object],
    keep: Callable[[dict[str, Any]], object] = lambda result: None,
    earlier: dict[str, Any] | None = None,
    budget_s: float = math.inf,
) -> dict[str, Any]:
    """Every section, most valuable first, as plain data.

    Args:
        run: what to measure.
        folder: the family's.
        progress: gets a line before each section.
        keep: gets the result so far after each section.
        earlier: the result of a run that was cut short, to continue.
        budget_s: no section begins that would probably end later; `left_out` names those.

    Raises:
        AnotherRun: `earlier` measured something else, or elsewhere.
    """
    device, dtype = resolve_device(run.device)
    clock, known = Clock(device), family(run.family)
    variant = known.variants[run.variants[0]]
    progress(f"{device_name(device)}: the matmul peak ...")
    result: dict[str, Any] = {
        "benchmark": "engine",
        "run": asdict(run),
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
    }
    if earlier is None:
        result |= {
            "matmul_flop_per_s": matmul_peak(device, dtype, clock),
            "variants": {},
            "bars": [],
        }
    else:
        result = _continued(earlier, result)
    result["left_out"] = []
    sections = _Sections(result, progress, keep, budget_s)
    contenders: dict[str, tuple[Ours, Stock]] = {}
    try:
        for name in run.variants:
            progress(f"{name}: loading ...")
            ours, stock, costs = _load(known, name, folder, run, clock)
            contenders[name] = ours, stock
            result["variants"].setdefault(name, costs)
        sections.measure(
            "the seed workload",
            result,
            "seed_workload",
            partial(seed_workload, contenders, run.steps, min(run.rounds, 3), clock),
        )
        for batch in run.batches:
            for name, (ours, stock) in contenders.items():
                costs = result["variants"][name]
                peak_s = costs["flop_per_picture"] / result["matmul_flop_per_s"]
                work = partial(_batch, run, ours, stock, batch, peak_s, clock)
                what = f"{name}: against stock, batch {batch}"
                sections.measure(what, costs["batches"], str(batch), work)
        for name, (ours, _) in contenders.items():
            work = partial(stages, ours, run.batches, run.rounds, clock)
            sections.measure(f"{name}: stages", result["variants"][name], "stages", work)
        # The cheapest: most requests in the time there is.
        cheapest = min(run.variants, key=lambda name: result["variants"][name]["flop_per_picture"])
        sections.measure(
            f"{cheapest}: policies under the same arrivals",
            result,
            "policies",
            lambda: asyncio.run(
                compare_policies(
                    contenders[cheapest][0], run.loads, run.requests, run.load_rounds, progress
                )
            ),
            _policies_s(run, result["variants"][cheapest]),
        )
    finally:
        for ours, _ in contenders.values():
            ours.close()
    return result


def _batch(
    run: EngineRun, ours: Ours, stock: Stock, batch: int, peak_s: float, clock: Clock
) -> dict[str, Any]:
    """Against stock; `peak_s` is how long a picture's FLOPs take at the matmul peak."""
    cell = against_stock(ours, stock, batch, run.steps, run.rounds, clock)
    images_per_s = batch / cell["ours_s"]["median"]
    return {**cell, "images_per_s": images_per_s, "peak_share": peak_s * images_per_s}


def _continued(earlier: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    wanted = json.loads(json.dumps(now))
    # What was asked for first: it is what a caller can change.
    pairs = [(name, earlier.get("run", {}).get(name), it) for name, it in wanted["run"].items()]
    pairs += [(name, earlier.get(name), it) for name, it in wanted.items() if name != "run"]
    for name, before, this in pairs:
        if before != this:
            raise AnotherRun(f"--resume: the earlier run has {name} {before!r}, this one {this!r}")
    return earlier


def _policies_s(run: EngineRun, costs: dict[str, Any]) -> float:
    """About how long both policies take under every load, at the best rate against stock."""
    rates: list[float] = [cell["images_per_s"] for cell in costs["batches"].values()]
    if not rates:
        return 0.0
    return 2 * run.load_rounds * sum(run.requests / load for load in run.loads) / max(rates)


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
        "batches": {},
    }
    return ours, stock, costs
