"""The service over a device that sleeps, and that hangs for good once a file is there."""

import os
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ray.serve import Application

from loadtests.fixed_step import FixedStep, FixedStepArgs
from serve.app import compose
from serve.miniature import WEIGHTS_DIR
from serve.variants import Variant
from serve.weights.manifest import read_manifest


class Stuck(FixedStep):
    """Hangs in the step after `hang_file` was made for its process."""

    def __init__(self, step_s: float, folder: Path, variants: Sequence[Variant]) -> None:
        super().__init__(step_s, variants)
        self._hang = hang_file(folder, os.getpid())

    def step(self, trajectories: list[Any]) -> None:
        while self._hang.exists():
            time.sleep(0.05)
        super().step(trajectories)


class StuckArgs(FixedStepArgs):
    hang_dir: Path


def hang_file(folder: Path, pid: int) -> Path:
    """Once it is there, that process's device hangs."""
    return folder / f"{pid}.hang"


def build_app(args: StuckArgs) -> Application:
    """For a config file: `import_path: tests.faults.stuck:build_app`."""
    load = partial(Stuck, args.step_s, args.hang_dir)
    return compose(args, read_manifest(WEIGHTS_DIR), load)
