"""The service over a device that sleeps, and that hangs for good once a file is there."""

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field
from ray.serve import Application

from loadtests.fixed_step import FixedStep
from serve.app import compose
from serve.config import AppArgs
from serve.miniature import WEIGHTS_DIR
from serve.variants import Variant
from serve.weights.manifest import read_manifest


class Stuck(FixedStep):
    """Hangs in the step after `hang_file` was made for its process."""

    def __init__(self, step_s: float, folder: Path, variants: Sequence[Variant]) -> None:
        super().__init__(step_s, variants)
        self._hang = hang_file(folder, os.getpid())

    def step(self, trajectories: list[Any]) -> None:
        """Sleep for a step; or until the process ends."""
        while self._hang.exists():
            time.sleep(0.05)
        super().step(trajectories)


class StuckArgs(AppArgs):
    """Arguments of `build_app`."""

    step_s: float = Field(0.02, gt=0)
    hang_dir: Path


def hang_file(folder: Path, pid: int) -> Path:
    """Once it is there, that process's device hangs."""
    return folder / f"{pid}.hang"


def build_app(args: StuckArgs) -> Application:
    """For a config file: `import_path: tests.faults.stuck:build_app`."""
    load = partial(Stuck, args.step_s, args.hang_dir)
    return compose(args, read_manifest(WEIGHTS_DIR), load)
