"""How a replica starts: load the denoiser, find out how many slots it is worth, and warm up."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, get_args

import numpy as np

from ..engine.denoiser import Denoiser
from ..engine.forecast import Pace
from ..engine.loop import Engine, Settings
from ..engine.sweep import MOST_IMAGES, sweep_denoiser
from ..errors import Flagged
from ..generation import Generation, OutputFormat, PictureFormat, Source
from ..metrics import ReplicaMetrics
from ..variants import Variant
from .encoding import Encoder

_log = logging.getLogger("ray.serve")

LoadDenoiser = Callable[[Sequence[Variant]], Denoiser[Generation, Any]]


async def start(
    variants: Sequence[Variant],
    load: LoadDenoiser,
    slots: int | None,
    encoder: Encoder,
    metrics: ReplicaMetrics,
) -> tuple[Denoiser[Generation, Any], Engine[Generation, Any]]:
    """Load the variants and warm them up; a sweep finds the `slots` where they are None."""
    started_at = time.perf_counter()
    # On a thread: it may take minutes, on the loop that answers Serve's controller.
    denoiser = await asyncio.to_thread(load, variants)
    loaded_at = time.perf_counter()
    found, call_s = await asyncio.to_thread(
        sweep_denoiser, denoiser, partial(_sweep_job, variants[0]), slots or MOST_IMAGES
    )
    _log.info(
        "a UNet call takes %s: %d slots%s",
        ", ".join(f"{seconds * 1000:.1f} ms for {images}" for images, seconds in call_s.items()),
        slots or found,
        "" if slots is None else ", as configured",
    )
    engine: Engine[Generation, Any] = Engine(
        denoiser, Settings(cap=slots or found), Pace(call_s), metrics
    )
    try:
        for variant in variants:
            await _warm_up(engine, encoder, variant)
    except BaseException:
        engine.close()  # Nobody else has it yet.
        raise
    ready_at = time.perf_counter()
    metrics.ready(ready_at - started_at)
    _log.info(
        "%s: loaded in %.1f s, warm after %.1f s more",
        ", ".join(variant.name for variant in variants),
        loaded_at - started_at,
        ready_at - loaded_at,
    )
    return denoiser, engine


async def _warm_up(engine: Engine[Generation, Any], encoder: Encoder, variant: Variant) -> None:
    """Draw with default guidance and without at the default size, edit, and encode every format."""
    side_px = variant.default_size_px
    blank = np.zeros((side_px, side_px, 3), np.uint8)
    scales = sorted({variant.guidance_scale, 1.0})
    edit: dict[str, Any] = {"guidance_scale": 1.0, "source": Source(blank.tobytes(), None, 1.0)}
    for changes in (*({"guidance_scale": scale} for scale in scales), edit):
        generation = variant.generation("warm-up", [0], 2, previews=1, **changes)
        with contextlib.suppress(Flagged):  # Two steps draw anything.
            await engine.submit(generation).result()
    for output_format in get_args(OutputFormat):
        await encoder.encode(blank, PictureFormat(output_format, 90))


def _sweep_job(variant: Variant, images: int, steps: int) -> Generation:
    return variant.generation("warm-up", range(images), steps, previews=1)
