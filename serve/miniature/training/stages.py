"""The stages of a training run, in one process or several."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel

from ...catalogue import MINIATURE
from .architecture import new_model, scheduler
from .consistency import distil_steps
from .dataset import CaptionedLatents, captioned_latents, pictures, vocabulary_captions
from .export import export_manifest, export_model, export_text
from .fitting import Budget, World
from .tokenizer import build_tokenizer
from .train_latents import train_latents
from .train_unet import train_student, train_unet
from .train_vae import fold_scaling, train_vae, train_vae_tiny

BUDGETS = {
    "latents": Budget(steps=2800, batch=32, learning_rate=2e-3, ema=0.998),
    "unet": Budget(steps=4300, batch=32, learning_rate=1.5e-3, ema=0.9995),
    "vae": Budget(steps=1600, batch=12, learning_rate=1.5e-3, ema=0.995),
    "unet_distilled": Budget(steps=2400, batch=32, learning_rate=8e-4, ema=0.999),
    "unet_bk_tiny": Budget(steps=1250, batch=32, learning_rate=8e-4, ema=0.999),
    "vae_tiny": Budget(steps=9000, batch=16, learning_rate=2e-3, ema=0.995),
    "unet_lcm": Budget(steps=1500, batch=32, learning_rate=3e-4, ema=0.995),
    "unet_distilled_lcm": Budget(steps=1500, batch=32, learning_rate=3e-4, ema=0.995),
}
"""Batches of one of two processes; a single process takes twice as many samples."""

_PICTURES = 24_000
_GOALS = 8_000
_SCENES = 60_000


@dataclass(frozen=True)
class TrainingRun:
    """The options of the command line."""

    out: Path
    device: str
    processes: int
    stages: tuple[str, ...]
    scale: float
    port: int

    def pictures(self) -> Tensor:
        """The pictures that the decoders learn from; see `dataset.pictures`."""
        return pictures(self.out, max(600, round(_PICTURES * min(1.0, self.scale))), seed=1)

    def budget(self, stage: str) -> Budget:
        """The stage's budget, with its steps scaled; the samples per step stay the same."""
        budget = BUDGETS[stage]
        return replace(
            budget,
            steps=max(1, round(budget.steps * self.scale)),
            batch=max(1, budget.batch * 2 // self.processes),
        )


def train(rank: int, run: TrainingRun) -> None:
    """Run the stages as process `rank`; the first process writes the weights."""
    torch.set_num_threads(1)
    if run.processes > 1:
        dist.init_process_group(
            "gloo", f"tcp://127.0.0.1:{run.port}", rank=rank, world_size=run.processes
        )
    world = World(rank, run.processes, torch.device(run.device))
    out, weights, writes = run.out, run.out / "weights", rank == 0
    drawn = run.pictures()
    coder = train_latents(world, drawn, run.budget("latents"), out)
    tokenizer = build_tokenizer(vocabulary_captions())
    stages = set(run.stages)
    if stages & {"unet", "unet_distilled", "unet_bk_tiny", "unet_lcm", "unet_distilled_lcm"}:
        scenes = max(64, round(_SCENES * min(1.0, run.scale))) // run.processes
        data = captioned_latents(out, coder.cpu(), tokenizer, scenes, seed=100 + rank)
        torch.manual_seed(4)
        text = new_model("text_encoder")
        unet, text = train_unet(world, data, text, run.budget("unet"), out)
        if writes:
            export_text(tokenizer, text.cpu(), weights)
            export_model(unet.cpu(), weights, "unet")
        if stages & {"unet_distilled", "unet_distilled_lcm"}:
            student = _distil_student(world, run, "unet_distilled", data, unet, text)
        if "unet_bk_tiny" in stages:
            _distil_student(world, run, "unet_bk_tiny", data, unet, text)
        if "unet_lcm" in stages:
            _distil_steps(world, run, "unet_lcm", data, unet, text)
        if "unet_distilled_lcm" in stages:
            _distil_steps(world, run, "unet_distilled_lcm", data, student, text)
    if stages & {"vae", "vae_tiny"}:
        vae = train_vae(world, drawn, coder, run.budget("vae"), out)
        if "vae_tiny" in stages:
            goals = max(64, round(_GOALS * min(1.0, run.scale)))
            tiny = train_vae_tiny(world, drawn, coder, vae, goals, run.budget("vae_tiny"), out)
            if writes:
                export_model(tiny.cpu(), weights, "vae_tiny")
        if writes:
            export_model(fold_scaling(vae.cpu()), weights, "vae")
    if writes and weights.exists():  # Stage `latents` exports nothing.
        export_manifest(weights)
    if run.processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def _distil_student(
    world: World,
    run: TrainingRun,
    name: str,
    data: CaptionedLatents,
    teacher: UNet2DConditionModel,
    text: CLIPTextModel,
) -> UNet2DConditionModel:
    """Distil a student, and write it."""
    student = train_student(world, name, data, teacher, text, run.budget(name), run.out)
    if world.rank == 0:
        export_model(student.cpu(), run.out / "weights", name)
    return student


def _distil_steps(
    world: World,
    run: TrainingRun,
    stage: str,
    data: CaptionedLatents,
    teacher: UNet2DConditionModel,
    text: CLIPTextModel,
) -> None:
    """Distil a few-step UNet, and write it."""
    alphas, scale = scheduler().alphas_cumprod, MINIATURE.variants["original"].guidance_scale
    budget = run.budget(stage)
    few_step = distil_steps(world, stage, data, teacher, text, alphas, scale, budget, run.out)
    if world.rank == 0:
        export_model(few_step.cpu(), run.out / "weights", stage)
