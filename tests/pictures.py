"""Drawing with the pipelines and comparing pictures, for the tests that need both."""

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray

from serve.generation import Generation
from serve.pipelines.pipeline import Pipeline
from serve.pipelines.trajectories import SCHEDULERS, Trajectory

# Mean absolute difference per 8-bit channel; batched and single calls differ by rounding only.
TOLERANCE = 0.5


def finish(pipe: Pipeline, trajectories: list[Trajectory]) -> None:
    while left := unfinished(trajectories):
        pipe.step(left)


def unfinished(trajectories: list[Trajectory]) -> list[Trajectory]:
    return [image for image in trajectories if image.steps_done < image.total_steps]


def draw(pipe: Pipeline, asked: Generation) -> NDArray[np.uint8]:
    """All images of a request, `(B, H, W, 3)`."""
    trajectories, _ = pipe.begin(asked)
    finish(pipe, trajectories)
    return pipe.decode(trajectories)


def stock_picture(ours: Pipeline, asked: Generation) -> NDArray[np.uint8]:
    """What diffusers' own pipeline makes of the same components and arguments."""
    parts = ours.components[asked.variant]
    scheduler_class, options = SCHEDULERS[asked.scheduler]
    pipe = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=scheduler_class.from_config(parts.scheduler.config, **options),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    images = pipe(
        asked.prompt,
        negative_prompt=asked.negative_prompt,
        width=asked.width_px,
        height=asked.height_px,
        num_inference_steps=asked.num_inference_steps,
        guidance_scale=asked.guidance_scale,
        num_images_per_prompt=len(asked.seeds),
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in asked.seeds],
        output_type="np",
    ).images
    pixels: NDArray[np.uint8] = (images * 255).round().astype(np.uint8)
    return pixels


def difference(picture: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(picture.astype(int) - other).mean())
