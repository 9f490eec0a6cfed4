"""The whole application, but with denoising steps that sleep for a fixed time.

On logical GPUs it shows how replicas, router and proxy scale on a machine without GPUs.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from ray.serve import Application

from serve.app import compose
from serve.config import AppArgs
from serve.generation import Generation, Plan
from serve.replica_info import Memory, ReplicaInfo
from serve.variants import Variant
from serve.weights.check import check_family
from serve.weights.layout import family_dir


@dataclass(eq=False)
class _Trajectory:
    generation: Generation
    seed: int
    steps_done: int = 0

    @property
    def total_steps(self) -> int:
        return self.generation.num_inference_steps

    @property
    def group(self) -> tuple[int, int]:
        return self.generation.width_px, self.generation.height_px

    decode_group = group


class FixedStep:
    """A denoiser whose steps sleep for `step_s`, however many images are in one."""

    prompt_lookups = 0, 0

    def __init__(self, step_s: float, _: Sequence[Variant]) -> None:
        self._step_s = step_s

    def plan(self, generation: Generation) -> Plan:
        """All sizes cost the same; no previews."""
        return Plan(len(generation.seeds), generation.num_inference_steps, step_cost=1.0)

    def prepare(self, generation: Generation) -> None:
        """Nothing to prepare: it draws no edits."""

    def begin(
        self, generation: Generation, prepared: None = None
    ) -> tuple[list[_Trajectory], tuple[str, ...]]:
        """One trajectory per seed."""
        return [_Trajectory(generation, seed) for seed in generation.seeds], ()

    def step(self, trajectories: list[_Trajectory]) -> None:
        """Sleep."""
        time.sleep(self._step_s)
        for trajectory in trajectories:
            trajectory.steps_done += 1

    def decode_slice(self, _: _Trajectory) -> int:
        """One at a time."""
        return 1

    def decode(self, trajectories: list[_Trajectory]) -> NDArray[np.uint8]:
        """`picture` of each; `(B, H, W, 3)`."""
        return np.stack(
            [self.picture(trajectory.generation, trajectory.seed) for trajectory in trajectories]
        )

    def picture(self, generation: Generation, seed: int) -> NDArray[np.uint8]:
        """Two colours, so that it isn't blank; `(H, W, 3)`."""
        picture = np.zeros((generation.height_px, generation.width_px, 3), np.uint8)
        picture[: generation.height_px // 2] = 1 + seed % 255
        return picture

    def preview(self, trajectory: _Trajectory) -> NDArray[np.uint8]:
        """The picture itself."""
        return self.picture(trajectory.generation, trajectory.seed)

    def flagged(self, pixels: NDArray[np.uint8]) -> list[bool]:
        """None of them."""
        return [False] * len(pixels)

    def free_memory(self) -> None:
        """Nothing to free."""

    def info(self) -> ReplicaInfo:
        """No device, so nothing is known of its memory."""
        return ReplicaInfo("none: steps sleep", Memory())

    def clock_s(self) -> float:
        """The wall's: a step is a sleep."""
        return time.perf_counter()

    def measuring(self) -> AbstractContextManager[None]:
        """Nothing disturbs a sleep."""
        return nullcontext()


class FixedStepArgs(AppArgs):
    """Arguments of `build_app`: those of the real application, and how long a step takes."""

    step_s: float = Field(0.02, gt=0, description="seconds that each denoising step takes")


def build_app(args: FixedStepArgs) -> Application:
    """For a config file: `import_path: loadtests.fixed_step:build_app`."""
    return build_fixed_step_app(args, args.step_s)


def build_fixed_step_app(
    args: AppArgs, step_s: float, denoiser: type[FixedStep] = FixedStep
) -> Application:
    """The whole application, but for the models; the weights' folder is still checked."""
    manifest = check_family(family_dir(args.family, args.weights_dir), args.known, args.served)
    return compose(args, manifest, partial(denoiser, step_s))
