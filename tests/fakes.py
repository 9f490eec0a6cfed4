"""A denoiser without a model: its pictures encode the seed, its steps take a given time."""

import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve.errors import NotFinite, OutOfDeviceMemory
from serve.generation import Generation, Plan, Preparation
from serve.replica_info import Memory, ReplicaInfo
from serve.variants import Variant


def generation(**changes: object) -> Generation:
    fields: dict[str, object] = {
        "variant": "original",
        "prompt": "a red star",
        "negative_prompt": "",
        "seeds": (7,),
        "width_px": 64,
        "height_px": 64,
        "default_size_px": 64,
        "num_inference_steps": 5,
        "guidance_scale": 4.0,
        "scheduler": "pndm",
        "deadline_at": None,
        "previews": 0,
        "warnings": (),
        "source": None,
    }
    return Generation(**{**fields, **changes})  # type: ignore[arg-type]


@dataclass(eq=False)
class FakeTrajectory:
    job: Generation
    seed: int
    steps_done: int = 0

    @property
    def total_steps(self) -> int:
        return self.job.num_inference_steps

    @property
    def group(self) -> tuple[str, int, int, bool]:
        job = self.job
        return job.variant, job.width_px, job.height_px, job.guidance_scale > 1

    @property
    def decode_group(self) -> tuple[int, int]:
        return self.job.width_px, self.job.height_px


@dataclass
class FakeDenoiser:
    """Prompts make it fail: "poison", "poisoned step", "poisoned latents".

    `journal`, a file, gets one line per step, so that other processes can count. A prompt "hold
    after 5: NAME" waits after five steps for a file NAME beside the journal.
    """

    step_s: float = 0.0
    decode_s: float = 0.0
    preview_s: float = 0.0
    journal: Path | None = None
    # Images that a call has memory for.
    room: int = 10**6
    decode_room: int = 10**6
    slice_most: int = 1
    begun: int = 0
    steps: int = 0
    calls: list[list[FakeTrajectory]] = field(default_factory=list)
    decodes: list[int] = field(default_factory=list)
    previews: int = 0
    prepared: int = 0
    # Which pictures are flagged.
    flags: Callable[[NDArray[np.uint8]], bool] = lambda picture: False
    memory_freed: int = 0
    threads: dict[str, set[str]] = field(default_factory=dict)
    # Entered for the sweep.
    lock: AbstractContextManager[None] = field(default_factory=nullcontext)
    # Tests hold a step open with it.
    gate: threading.Event = field(default_factory=threading.Event)
    decode_gate: threading.Event = field(default_factory=threading.Event)
    prepare_gate: threading.Event = field(default_factory=threading.Event)
    # Calls of `prepare` that have no memory.
    no_room_to_prepare: int = 0

    def __post_init__(self) -> None:
        self.gate.set()
        self.decode_gate.set()
        self.prepare_gate.set()

    @property
    def prompt_lookups(self) -> tuple[int, int]:
        return 0, self.begun

    def info(self) -> ReplicaInfo:
        return ReplicaInfo(
            "a fake",
            Memory(rss_bytes=2**20, peak_rss_bytes=2**21),
            switched_on=["unet: compile"],
            left_off={"unet: CUDA graphs": "RuntimeError: not permitted"},
            preparation_s={"load": 0.5, "unet: compile": 1.5},
        )

    def clock_s(self) -> float:
        return time.perf_counter()

    def measuring(self) -> AbstractContextManager[None]:
        return self.lock

    def plan(self, job: Generation) -> Plan:
        steps = job.num_inference_steps
        shown = (round(steps * part / (job.previews + 1)) for part in range(1, job.previews + 1))
        return Plan(
            images=len(job.seeds),
            steps=steps,
            step_cost=1.0 if job.guidance_scale > 1 else 0.5,
            previews_at=tuple(sorted({step for step in shown if 0 < step < steps})),
            preparation=None
            if job.source is None
            else Preparation(job.variant, job.width_px * job.height_px),
        )

    def prepare(self, job: Generation) -> str:
        self._note_thread("prepare")
        self.prepare_gate.wait()
        if self.no_room_to_prepare:
            self.no_room_to_prepare -= 1
            raise OutOfDeviceMemory("no room")
        if job.prompt == "poisoned picture":
            raise ValueError("a bad picture")
        self.prepared += 1
        return f"prepared {job.prompt}"

    def begin(
        self, job: Generation, prepared: str | None = None
    ) -> tuple[list[FakeTrajectory], tuple[str, ...]]:
        self._note_thread("begin")
        assert prepared == (None if job.source is None else f"prepared {job.prompt}")
        self.begun += 1
        if job.prompt == "poison":
            raise ValueError("a bad prompt")
        return [FakeTrajectory(job, seed) for seed in job.seeds], ()

    def step(self, trajectories: list[FakeTrajectory]) -> None:
        self._note_thread("step")
        self.gate.wait()
        time.sleep(self.step_s)
        assert len({image.group for image in trajectories}) == 1
        if len(trajectories) > self.room:
            raise OutOfDeviceMemory("no room")
        self.steps += 1
        self.calls.append(list(trajectories))
        if self.journal is not None:
            with self.journal.open("a") as journal:
                journal.write("step\n")
        for image in trajectories:
            if image.job.prompt == "poisoned step":
                raise ValueError("a bad step")
            self._wait_for_file(image)
            assert image.steps_done < image.total_steps
            image.steps_done += 1

    def decode_slice(self, trajectory: FakeTrajectory) -> int:
        return self.slice_most

    def decode(self, trajectories: list[FakeTrajectory]) -> NDArray[np.uint8]:
        self._note_thread("decode")
        self.decode_gate.wait()
        time.sleep(self.decode_s)
        assert len({image.decode_group for image in trajectories}) == 1
        if len(trajectories) > self.decode_room:
            raise OutOfDeviceMemory("no room")
        if any(image.job.prompt == "poisoned latents" for image in trajectories):
            raise NotFinite("not a number")
        self.decodes.append(len(trajectories))
        return np.stack([_picture(image) for image in trajectories])

    def preview(self, trajectory: FakeTrajectory) -> NDArray[np.uint8]:
        self._note_thread("preview")
        time.sleep(self.preview_s)
        self.previews += 1
        return _picture(trajectory)

    def flagged(self, pixels: NDArray[np.uint8]) -> list[bool]:
        self._note_thread("flagged")
        return [self.flags(picture) for picture in pixels]

    def free_memory(self) -> None:
        self.memory_freed += 1

    def _wait_for_file(self, image: FakeTrajectory) -> None:
        found = re.fullmatch(r"hold after (\d+): (\w+)", image.job.prompt)
        if found is None or image.steps_done != int(found[1]):
            return
        assert self.journal is not None
        deadline = time.monotonic() + 240
        while not self.journal.with_name(found[2]).exists():
            assert time.monotonic() < deadline, f"nobody let {image.job.prompt!r} go on"
            time.sleep(0.01)

    def _note_thread(self, function: str) -> None:
        self.threads.setdefault(function, set()).add(threading.current_thread().name)


def _picture(image: FakeTrajectory) -> NDArray[np.uint8]:
    """Its colour encodes the seed and the steps done."""
    picture = np.zeros((image.job.height_px, image.job.width_px, 3), np.uint8)
    picture[...] = image.seed % 256, image.seed // 256 % 256, image.steps_done
    return picture


def load_fake(step_s: float, journal_dir: Path, variants: Sequence[Variant]) -> FakeDenoiser:
    """Load in a replica; leaves the process's id and its GPUs beside the journal.

    While there is a file VARIANT.absent beside it, replicas of that variant go on loading.
    """
    name = variants[0].name
    while (journal_dir / f"{name}.absent").exists():
        time.sleep(0.01)
    (journal_dir / f"{name}.pid").write_text(str(os.getpid()))
    (journal_dir / f"{name}.gpu").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    return FakeDenoiser(step_s=step_s, journal=journal_dir / name)
