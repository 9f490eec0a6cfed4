"""Drawing with the pipelines and comparing pictures, for the tests that need both."""

from typing import Any

import numpy as np
import torch
from diffusers import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from numpy.typing import NDArray
from PIL import Image

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
    trajectories, _ = pipe.begin(asked, pipe.prepare(asked))
    finish(pipe, trajectories)
    return pipe.decode(trajectories)


def stock_edit(ours: Pipeline, asked: Generation) -> NDArray[np.uint8]:
    """What diffusers' pipelines for edits make, one image with one generator at a time."""
    assert asked.source is not None
    size = asked.width_px, asked.height_px
    options: dict[str, Any] = {"image": Image.frombytes("RGB", size, asked.source.pixels)}
    pipeline_class: Any = StableDiffusionImg2ImgPipeline
    if asked.source.mask is not None:
        pipeline_class = StableDiffusionInpaintPipeline
        options["mask_image"] = Image.frombytes("L", size, asked.source.mask)
        options |= {"width": asked.width_px, "height": asked.height_px}
    pipe = _stock(ours, asked, pipeline_class)
    images = [
        pipe(
            asked.prompt,
            negative_prompt=asked.negative_prompt,
            strength=asked.source.strength,
            num_inference_steps=asked.num_inference_steps,
            guidance_scale=asked.guidance_scale,
            generator=[torch.Generator("cpu").manual_seed(seed)],
            output_type="np",
            **options,
        ).images[0]
        for seed in asked.seeds
    ]
    pixels: NDArray[np.uint8] = (np.stack(images) * 255).round().astype(np.uint8)
    return pixels


def _stock(ours: Pipeline, asked: Generation, pipeline_class: Any) -> Any:
    parts = ours.components[asked.variant]
    scheduler_class, options = SCHEDULERS[asked.scheduler]
    pipe = pipeline_class(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        # The inpainting pipeline lacks this correction of the other two.
        scheduler=scheduler_class.from_config(parts.scheduler.config, clip_sample=False, **options),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stock_picture(ours: Pipeline, asked: Generation) -> NDArray[np.uint8]:
    """What diffusers' own pipeline makes of the same components and arguments."""
    pipe = _stock(ours, asked, StableDiffusionPipeline)
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
