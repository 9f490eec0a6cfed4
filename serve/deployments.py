"""VariantReplica: the thin actor round an engine; one deployment per variant is made of it."""

import logging
import time
from collections.abc import Callable
from typing import Any, get_args

from .engine import Denoiser, Engine
from .generation import Drawing, Generation, OutputFormat, PictureFormat, Timings
from .images import Encoder
from .variants import Variant

_log = logging.getLogger("ray.serve")

LoadDenoiser = Callable[[Variant], Denoiser[Generation, Any]]


class VariantReplica:
    """Draws with one variant. Loaded and warm once constructed, so RUNNING means ready.

    `note` is what everybody who sees a picture must know of the weights: it goes into every
    picture's Exif and every reply's warnings.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits constructors.
        self, variant: Variant, load: LoadDenoiser, stuck_after_s: float, note: str | None
    ) -> None:
        self._note = note
        self._stuck_after_s = stuck_after_s
        started_at = time.perf_counter()
        self._encoder = Encoder()
        self._engine: Engine[Generation, Any] = Engine(load(variant))
        loaded_at = time.perf_counter()
        await self._warm_up(variant)
        _log.info(
            "%s: loaded in %.1f s, warm after %.1f s more",
            variant.name,
            loaded_at - started_at,
            time.perf_counter() - loaded_at,
        )

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        """Draw and encode one request's pictures; cancelled with the caller.

        Raises:
            EngineClosed: the replica is shutting down.
        """
        result = await self._engine.submit(generation).result()
        denoised_at = time.perf_counter()
        pictures = await self._encoder.encode(result.images, picture_format, self._note)
        timings = Timings(
            queue_s=result.queue_s,
            denoise_s=result.denoise_s,
            decode_s=result.decode_s,
            encode_s=time.perf_counter() - denoised_at,
        )
        _log.info(
            "%d image(s) %dx%d, %d steps: queue %.3f s, denoise %.3f s, decode %.3f s, "
            "encode %.3f s",
            len(pictures),
            generation.width_px,
            generation.height_px,
            generation.num_inference_steps,
            timings.queue_s,
            timings.denoise_s,
            timings.decode_s,
            timings.encode_s,
        )
        notes = () if self._note is None else (self._note,)
        return Drawing(pictures, timings, result.warnings + notes)

    def check_health(self) -> None:
        """Tell Serve whether this replica can go on; three failures in a row replace it.

        Raises:
            RuntimeError: the engine's thread is gone, or a call into the device hangs.
        """
        if not self._engine.alive:
            raise RuntimeError("the engine's thread has ended")
        if self._engine.call_age_s > self._stuck_after_s:
            raise RuntimeError(f"a device call has lasted {self._engine.call_age_s:.0f} s")

    def __del__(self) -> None:
        # Serve calls this after the last accepted request has been answered.
        if hasattr(self, "_engine"):  # Not where loading failed.
            self._engine.close()
        self._encoder.close()

    async def _warm_up(self, variant: Variant) -> None:
        """Draw with and without guidance at the default size, and encode every format."""
        for guidance_scale in (variant.guidance_scale, 1.0):
            generation = Generation(
                variant=variant.name,
                prompt="warm-up",
                negative_prompt="",
                seeds=(0,),
                width_px=variant.default_size_px,
                height_px=variant.default_size_px,
                num_inference_steps=2,
                guidance_scale=guidance_scale,
                scheduler=variant.default_scheduler,
                deadline_at=None,
                previews=0,
            )
            result = await self._engine.submit(generation).result()
        for output_format in get_args(OutputFormat):
            await self._encoder.encode(result.images, PictureFormat(output_format, 90))
