"""Against stock, stage by stage and in the seed workload, as plain data."""

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from serve.generation import PictureFormat
from serve.pipelines.devices import DeviceName
from serve.pipelines.optimisations import Optimisations
from serve.pipelines.pipeline import Pipeline
from serve.replica.encoding import encode
from serve.variants import Variant, family

from ..published import CALLS, IMAGES_A_CALL, PROMPT, STEPS
from .contenders import Contender, Ours, Stock, generation
from .timing import Clock, Spread, alternate, ratios

# As a replica has them, but every call here has the same prompt: kept, it would cost nothing, and
# requests' prompts differ.
OPTIMISATIONS = Optimisations(embedding_cache=0)


def flop_per_picture(eager: Pipeline, variant: Variant) -> int:
    """Multiplications and additions of one picture, counted as torch runs them on this thread."""
    with FlopCounterMode(display=False) as counter:
        trajectories, _ = eager.begin(generation(variant, PROMPT, [0], STEPS))
    around = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        eager.step(trajectories)
    step = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        eager.decode(trajectories)
    return int(around + step * trajectories[0].total_steps + counter.get_total_flops())


def stages(ours: Ours, batches: Sequence[int], rounds: int, clock: Clock) -> dict[str, Any]:
    """Seconds of each stage; UNet steps by images in a call (with guidance twice as many)."""
    pipeline = ours.pipeline
    repeats = max(7, rounds)
    # Long enough to have a step left for every repeat.
    drawn = {batch: ours.begin(PROMPT, range(batch), repeats + 1) for batch in batches}
    one = drawn[batches[0]][:1]
    pixels = pipeline.decode(one)[0]
    timed: dict[str, Callable[[], Any]] = {
        "begin": partial(ours.begin, PROMPT, [0], STEPS),
        "decode": partial(pipeline.decode, one),
        "encode_png": partial(encode, pixels, PictureFormat("png", 90)),
    }
    for batch in batches:
        timed[f"step {batch}"] = partial(pipeline.step, drawn[batch])
    alternate(timed, 1, clock)  # Warms up.
    seconds = alternate(timed, repeats, clock)
    steps = {batch: Spread.of(seconds[f"step {batch}"]) for batch in batches}
    return {
        **{
            f"{name}_s": asdict(Spread.of(seconds[name]))
            for name in ("begin", "decode", "encode_png")
        },
        "step_s": {str(batch): asdict(spread) for batch, spread in steps.items()},
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


def against_stock(
    ours: Ours, stock: Stock, batch: int, flop: int, peak: float, rounds: int, clock: Clock
) -> dict[str, Any]:
    """One request to the engine against one call of stock's, and how far the pictures differ."""
    seeds = range(batch)
    # Also warms up; the pictures must be the same ones.
    parity = _difference(ours.draw(PROMPT, seeds, STEPS), stock.draw(PROMPT, seeds, STEPS))
    seconds = alternate(
        {
            "ours": partial(ours.draw, PROMPT, seeds, STEPS),
            "stock": partial(stock.draw, PROMPT, seeds, STEPS),
            "deterministic": partial(_draw_deterministic, ours, seeds),
        },
        rounds,
        clock,
    )
    drawn = Spread.of(seconds["ours"])
    return {
        "ours_s": asdict(drawn),
        "stock_s": asdict(Spread.of(seconds["stock"])),
        "speed_against_stock": asdict(ratios(seconds["stock"], seconds["ours"])),
        "deterministic_speed": asdict(ratios(seconds["ours"], seconds["deterministic"])),
        "images_per_s": batch / drawn.median,
        "peak_share": flop * batch / drawn.median / peak,
        "parity": parity,
    }


def _draw_deterministic(ours: Ours, seeds: Sequence[int]) -> None:
    """With calls of one image each; torch's own deterministic algorithms aside."""
    before = ours.pipeline.optimisations
    ours.pipeline.optimisations = replace(before, deterministic=True)
    try:
        ours.draw(PROMPT, seeds, STEPS)
    finally:
        ours.pipeline.optimisations = before


def _difference(ours: Sequence[Image.Image], theirs: Sequence[Image.Image]) -> float:
    """Mean absolute difference of the pictures' 8-bit values."""
    pairs = zip(ours, theirs, strict=True)
    return float(
        np.mean([np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)) for a, b in pairs])
    )


def seed_workload(
    contenders: dict[str, tuple[Ours, Stock]], rounds: int, clock: Clock
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
    seconds = alternate(runs, min(rounds, 3), clock)
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
        pipeline = Pipeline.load([variant], folder, device, OPTIMISATIONS)
        trajectories, _ = pipeline.begin(generation(variant, PROMPT, [0], 1))
        pipeline.step(trajectories)
        picture = pipeline.decode(trajectories)
        found[name] = {
            "picture": list(picture.shape[1:]),
            "finite": bool(torch.isfinite(trajectories[0].latents).all()),
            "load_step_decode_s": time.perf_counter() - started_s,
        }
        del pipeline, trajectories
        gc.collect()
    return found
