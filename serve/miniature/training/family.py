"""The shipped variants on the server's own pipeline, for measurements and contact sheets."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...http.schemas import GenerationRequest
from ...pipelines.pipeline import Pipeline
from ...pipelines.trajectories import Trajectory
from ...variants import MINIATURE

GUIDANCE_SCALE = MINIATURE.variants["original"].guidance_scale
STEPS: int = GenerationRequest.model_fields["num_inference_steps"].default


def load_family(weights: Path) -> Pipeline:
    """Every variant, on the CPU."""
    return Pipeline.load(list(MINIATURE.variants.values()), weights, "cpu")


def denoise(
    pipeline: Pipeline,
    variant: str,
    prompts: list[str],
    seeds: list[int],
    guidance_scale: float = GUIDANCE_SCALE,
) -> list[Trajectory]:
    """One finished trajectory for each prompt and seed."""
    asked = MINIATURE.variants[variant].generation
    trajectories: list[Trajectory] = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        one_picture = asked(prompt, [seed], STEPS, guidance_scale=guidance_scale)
        trajectories += pipeline.begin(one_picture)[0]
    for _ in range(trajectories[0].total_steps):
        pipeline.step(trajectories)
    return trajectories


def draw_pictures(
    pipeline: Pipeline,
    variant: str,
    prompts: list[str],
    seeds: list[int],
    guidance_scale: float = GUIDANCE_SCALE,
    at_once: int = 10,
) -> NDArray[np.uint8]:
    """One picture for each prompt and seed: (N, 96, 96, 3), uint8."""
    pictures = []
    for start in range(0, len(prompts), at_once):
        part = slice(start, start + at_once)
        finished = denoise(pipeline, variant, prompts[part], seeds[part], guidance_scale)
        pictures.append(pipeline.decode(finished))
    return np.concatenate(pictures)
