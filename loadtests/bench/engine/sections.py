"""Against stock, stage by stage and in the seed workload, as plain data."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from serve.generation import PictureFormat
from serve.pipelines.optimisations import Optimisations
from serve.pipelines.pipeline import Pipeline
from serve.replica.encoding import encode
from serve.variants import Variant

from ...published import CALLS, IMAGES_A_CALL, PROMPT, STEPS
from ...rounds import Spread
from .contenders import Ours, Stock
from .timing import Clock, alternate

# As a replica has them, but every call here has the same prompt: kept, it would cost nothing, and
# requests' prompts differ.
OPTIMISATIONS = Optimisations(embedding_cache=0)


def flop_per_picture(eager: Pipeline, variant: Variant, steps: int) -> int:
    """Multiplications and additions of one picture, counted as torch runs them on this thread."""
    with FlopCounterMode(display=False) as counter:
        trajectories, _ = eager.begin(variant.generation(PROMPT, [0], steps))
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
    single = drawn[batches[0]][:1]
    pixels = pipeline.decode(single)[0]
    timed: dict[str, Callable[[], Any]] = {
        "begin": partial(ours.begin, PROMPT, [0], STEPS),
        "decode": partial(pipeline.decode, single),
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
        "step_fixed_share": fixed_share({batch: spread.median for batch, spread in steps.items()}),
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
    ours: Ours, stock: Stock, batch: int, steps: int, rounds: int, clock: Clock
) -> dict[str, Any]:
    """One request to the engine against one call of stock's, and how far the pictures differ."""
    seeds = range(batch)
    # Also warms up; the pictures must be the same ones.
    parity = mean_difference(ours.draw(PROMPT, seeds, steps), stock.draw(PROMPT, seeds, steps))
    seconds = alternate(
        {
            "ours": partial(ours.draw, PROMPT, seeds, steps),
            "stock": partial(stock.draw, PROMPT, seeds, steps),
        },
        rounds,
        clock,
    )
    return {
        "ours_s": asdict(Spread.of(seconds["ours"])),
        "stock_s": asdict(Spread.of(seconds["stock"])),
        "speed_against_stock": asdict(Spread.of_ratios(seconds["stock"], seconds["ours"])),
        "parity": parity,
    }


def mean_difference(ours: Sequence[Image.Image], theirs: Sequence[Image.Image]) -> float:
    """Mean absolute difference of the pictures' 8-bit values."""
    pairs = zip(ours, theirs, strict=True)
    return float(
        np.mean([np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)) for a, b in pairs])
    )


def seed_workload(
    contenders: dict[str, tuple[Ours, Stock]], steps: int, rounds: int, clock: Clock
) -> dict[str, Any]:
    """12 images in three calls: every variant both ways, in turn within each round."""

    def run(contender: Ours | Stock) -> None:
        for call in range(CALLS):
            first = call * IMAGES_A_CALL
            contender.draw(PROMPT, range(first, first + IMAGES_A_CALL), steps)

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
                    Spread.of_ratios(seconds[f"{first} {way}"], seconds[f"{name} {way}"])
                ),
            }
            for way in ("ours", "stock")
        }
        for name in contenders
    }
