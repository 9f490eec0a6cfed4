"""The two ways to draw that a benchmark compares, over the very same models."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from PIL import Image

from serve.generation import Generation
from serve.pipelines import Pipeline
from serve.trajectories import Trajectory
from serve.variants import Variant


class Contender(Protocol):
    """Draws one picture for each seed, in one call."""

    def draw(self, prompt: str, seeds: Sequence[int], steps: int) -> list[Image.Image]:
        """Blocks until the pictures are in main memory."""


class Ours:
    """This project's pipeline, driven as a replica's engine drives it."""

    def __init__(self, pipeline: Pipeline, variant: Variant) -> None:
        self.pipeline = pipeline
        self._variant = variant

    def generation(self, prompt: str, seeds: Sequence[int], steps: int) -> Generation:
        """A request with the variant's defaults."""
        return Generation(
            variant=self._variant.name,
            prompt=prompt,
            negative_prompt="",
            seeds=tuple(seeds),
            width_px=self._variant.default_size_px,
            height_px=self._variant.default_size_px,
            num_inference_steps=steps,
            guidance_scale=self._variant.guidance_scale,
            scheduler="pndm",
            deadline_at=None,
            previews=0,
        )

    def begin(self, prompt: str, seeds: Sequence[int], steps: int) -> list[Trajectory]:
        """Prompts encoded, noise drawn."""
        return self.pipeline.begin(self.generation(prompt, seeds, steps))[0]

    def draw(self, prompt: str, seeds: Sequence[int], steps: int) -> list[Image.Image]:
        """All images through each step together, then decoded one by one."""
        trajectories = self.begin(prompt, seeds, steps)
        for _ in range(trajectories[0].total_steps):
            self.pipeline.step(trajectories)
        return [Image.fromarray(self.pipeline.decode([one])[0]) for one in trajectories]


class Stock:
    """`StableDiffusionPipeline` as diffusers' documentation uses it."""

    def __init__(self, pipeline: Pipeline, variant: Variant) -> None:
        self._variant = variant
        parts = pipeline.components[variant.name]
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
