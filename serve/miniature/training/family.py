"""The shipped variants on the server's own pipeline, for measurements and contact sheets."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...catalogue import MINIATURE
from ...pipelines.pipeline import Pipeline
from ...pipelines.trajectories import Trajectory


def load_family(weights: Path) -> Pipeline:
    """Every variant, on the CPU."""
    return Pipeline.load(list(MINIATURE.variants.values()), weights, "cpu")


def denoise(
    pipeline: Pipeline,
    variant: str,
    prompts: list[str],
    seeds: list[int],
    **changes: Any,
) -> list[Trajectory]:
    """One finished trajectory for each prompt and seed; `changes` to the variant's defaults."""
    asked = MINIATURE.variants[variant].generation
    trajectories: list[Trajectory] = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        generation = asked(prompt, [seed], **changes)
        trajectories += pipeline.begin(generation, pipeline.prepare(generation))[0]
    for _ in range(trajectories[0].total_steps):
        pipeline.step(trajectories)
    return trajectories


def draw_pictures(
    pipeline: Pipeline,
    variant: str,
    prompts: list[str],
    seeds: list[int],
    at_once: int = 10,
    **changes: Any,
) -> NDArray[np.uint8]:
    """One picture for each prompt and seed, as `denoise` does: (N, 96, 96, 3), uint8."""
    pictures = []
    for start in range(0, len(prompts), at_once):
        part = slice(start, start + at_once)
        finished = denoise(pipeline, variant, prompts[part], seeds[part], **changes)
        pictures.append(pipeline.decode(finished))
    return np.concatenate(pictures)
