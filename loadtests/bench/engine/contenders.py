"""The two ways to draw that a benchmark compares: the same weights, loaded apart."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from PIL import Image

from serve.engine.forecast import Pace
from serve.engine.loop import Engine, Settings
from serve.engine.sweep import sweep_denoiser
from serve.generation import Generation
from serve.pipelines.components import load_components
from serve.pipelines.devices import DeviceName, resolve_device
from serve.pipelines.optimisations import Optimisations
from serve.pipelines.pipeline import Pipeline
from serve.pipelines.readiness import Readiness
from serve.pipelines.trajectories import Trajectory
from serve.variants import Variant

from ...published import PROMPT

EAGER = Optimisations(
    channels_last=False, attention="default", compile=False, cuda_graphs=False, embedding_cache=0
)


class Ours:
    """This project's engine over its pipeline: threads and slots as a replica has them.

    `call_s` are the seconds of the calls that a replica's start-up sweep times, by images in them,
    and `settings` what came of it. Close it, so that its threads end.
    """

    def __init__(self, pipeline: Pipeline, variant: Variant) -> None:
        self.pipeline = pipeline
        self.variant = variant
        cap, self.call_s = sweep_denoiser(
            pipeline, lambda images, steps: variant.generation(PROMPT, range(images), steps)
        )
        self.settings = Settings(cap=cap)
        # `submit` wants an event loop, as a replica has one.
        self._loop = asyncio.Runner()
        self._engine = Engine(pipeline, self.settings, Pace(self.call_s))

    def begin(self, prompt: str, seeds: Sequence[int], steps: int) -> list[Trajectory]:
        """Prompts encoded, noise drawn, without the engine: for stages."""
        return self.pipeline.begin(self.variant.generation(prompt, seeds, steps))[0]

    def draw(self, prompt: str, seeds: Sequence[int], steps: int) -> list[Image.Image]:
        """One request to the engine."""
        return self._loop.run(self._draw(self.variant.generation(prompt, seeds, steps)))

    def close(self) -> None:
        """End the engine's threads."""
        self._engine.close()
        self._loop.run(self._engine.wait_closed())
        self._loop.close()

    async def _draw(self, generation: Generation) -> list[Image.Image]:
        result = await self._engine.submit(generation).result()
        # All of them: no safety checker was loaded.
        return [Image.fromarray(pixels) for pixels in result.images if pixels is not None]


class Stock:
    """`StableDiffusionPipeline` as diffusers' documentation uses it."""

    def __init__(self, variant: Variant, folder: Path, device_name: DeviceName) -> None:
        self._variant = variant
        # Models of its own: what makes ours faster must not make these so.
        parts = load_components([variant], folder, *resolve_device(device_name))[variant.name]
        self._pipe: Any = StableDiffusionPipeline(
            vae=parts.vae,
            text_encoder=parts.text_encoder,
            tokenizer=parts.tokenizer,
            unet=parts.unet,
            scheduler=PNDMScheduler.from_config(parts.scheduler.config),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self._pipe.set_progress_bar_config(disable=True)
        # The same models step by step: torch counts no FLOPs of a call that is replayed.
        self.eager = Pipeline([variant], {variant.name: parts}, EAGER, Readiness())

    def draw(self, prompt: str, seeds: Sequence[int], steps: int) -> list[Image.Image]:
        """One call for all images."""
        images: list[Image.Image] = self._pipe(
            prompt,
            num_images_per_prompt=len(seeds),
            num_inference_steps=steps,
            guidance_scale=self._variant.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
        ).images
        return images
