"""A denoiser without a model: its pictures tell the seed, its steps take as long as told."""

import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve.generation import Generation
from serve.variants import Variant


def generation(**changes: object) -> Generation:
    fields: dict[str, object] = {
        "variant": "original",
        "prompt": "a red star",
        "negative_prompt": "",
        "seeds": (7,),
        "width_px": 64,
        "height_px": 64,
        "num_inference_steps": 5,
        "guidance_scale": 4.0,
        "scheduler": "pndm",
        "deadline_at": None,
        "previews": 0,
    }
    return Generation(**{**fields, **changes})  # type: ignore[arg-type]


@dataclass
class FakeTrajectory:
    seed: int
    width_px: int
    height_px: int
    total_steps: int
    steps_done: int = 0


@dataclass
class FakeDenoiser:
    """`journal`, a file, gets one line per step, so that other processes can count."""

    step_s: float = 0.0
    journal: Path | None = None
    fail_on: str | None = None
    begun: int = 0
    steps: int = 0
    threads: set[str] = field(default_factory=set)
    # Tests hold a step open with it.
    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    def begin(self, job: Generation) -> tuple[list[FakeTrajectory], tuple[str, ...]]:
        self.threads.add(threading.current_thread().name)
        self.begun += 1
        if job.prompt == self.fail_on:
            raise ValueError("a bad prompt")
        return [
            FakeTrajectory(seed, job.width_px, job.height_px, job.num_inference_steps)
            for seed in job.seeds
        ], ()

    def step(self, trajectories: list[FakeTrajectory]) -> None:
        self.threads.add(threading.current_thread().name)
        self.gate.wait()
        time.sleep(self.step_s)
        self.steps += 1
        if self.journal is not None:
            with self.journal.open("a") as journal:
                journal.write("step\n")
        for one in trajectories:
            one.steps_done += 1

    def decode(self, trajectories: list[FakeTrajectory]) -> NDArray[np.uint8]:
        self.threads.add(threading.current_thread().name)
        return np.stack(
            [
                np.full((one.height_px, one.width_px, 3), one.seed % 256, np.uint8)
                for one in trajectories
            ]
        )


def load_fake(step_s: float, journal_dir: Path, variant: Variant) -> FakeDenoiser:
    """Load in a replica; leaves the process's id and its GPUs beside the journal."""
    (journal_dir / f"{variant.name}.pid").write_text(str(os.getpid()))
    (journal_dir / f"{variant.name}.gpu").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    return FakeDenoiser(step_s=step_s, journal=journal_dir / variant.name)
