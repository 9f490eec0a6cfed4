"""Train the whole miniature from nothing: `python -m serve.miniature.training [--out DIR]`.

Stages, each resumable from its checkpoint in DIR: `latents` (what the latents mean), `unet` (the
teacher with its text encoder), `unet_distilled` (the student), `vae` and `vae_tiny` (the decoders).
The finished folders lie in DIR/weights. On a CPU two single-thread processes share the work.
"""

from __future__ import annotations

import argparse
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from . import architecture
from .dataset import captioned_latents, pictures, vocabulary_captions
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
    "vae_tiny": Budget(steps=3000, batch=16, learning_rate=2e-3, ema=0.995),
}
"""Batches are for one of two processes; one process alone takes twice as much."""

_PICTURES = 24_000
_SCENES = 60_000


@dataclass(frozen=True)
class Plan:
    """What the command line asks for."""

    out: Path
    device: str
    processes: int
    stages: tuple[str, ...]
    scale: float
    port: int

    def budget(self, stage: str) -> Budget:
        """The stage's budget, scaled in steps; the samples a step stay the same."""
        budget = BUDGETS[stage]
        return replace(
            budget,
            steps=max(1, round(budget.steps * self.scale)),
            batch=max(1, budget.batch * 2 // self.processes),
        )


def _train(rank: int, plan: Plan) -> None:
    torch.set_num_threads(1)
    if plan.processes > 1:
        dist.init_process_group(
            "gloo", f"tcp://127.0.0.1:{plan.port}", rank=rank, world_size=plan.processes
        )
    world = World(rank, plan.processes, torch.device(plan.device))
    out, weights, writes = plan.out, plan.out / "weights", rank == 0
    drawn = pictures(out, max(600, round(_PICTURES * min(1.0, plan.scale))), seed=1)
    coder = train_latents(world, drawn, plan.budget("latents"), out)
    tokenizer = build_tokenizer(vocabulary_captions())
    if {"unet", "unet_distilled"} & set(plan.stages):
        scenes = max(64, round(_SCENES * min(1.0, plan.scale))) // plan.processes
        data = captioned_latents(out, coder.cpu(), tokenizer, scenes, seed=100 + rank)
        torch.manual_seed(4)
        text = architecture.text_encoder(tokenizer)
        unet, text = train_unet(world, data, text, plan.budget("unet"), out)
        if writes:
            export_text(tokenizer, text.cpu(), weights)
            export_model(unet.cpu(), weights, "unet")
        if "unet_distilled" in plan.stages:
            budget = plan.budget("unet_distilled")
            student = train_student(world, data, unet, text, budget, out)
            if writes:
                export_model(student.cpu(), weights, "unet_distilled")
    if {"vae", "vae_tiny"} & set(plan.stages):
        vae = train_vae(world, drawn, coder, plan.budget("vae"), out)
        if "vae_tiny" in plan.stages:
            tiny = train_vae_tiny(world, drawn, coder, vae, plan.budget("vae_tiny"), out)
            if writes:
                export_model(tiny.cpu(), weights, "vae_tiny")
        if writes:
            export_model(fold_scaling(vae.cpu()), weights, "vae")
    if writes and weights.exists():  # The stage `latents` alone exports nothing.
        export_manifest(weights)
    if plan.processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m serve.miniature.training", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("miniature-build"), help="checkpoints and DIR/weights"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--scale", type=float, default=1.0, help="of every stage's steps")
    parser.add_argument("--processes", type=int, help="default: 2 on a CPU, 1 on a GPU")
    parser.add_argument("--stages", default=",".join(BUDGETS), help="default: all")
    args = parser.parse_args()
    stages = tuple(args.stages.split(","))
    if unknown := set(stages) - set(BUDGETS):
        parser.error(f"unknown stages {sorted(unknown)}; there are {', '.join(BUDGETS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    processes = args.processes or (2 if args.device == "cpu" else 1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plan = Plan(args.out, args.device, processes, stages, args.scale, port)
    pictures(args.out, max(600, round(_PICTURES * min(1.0, args.scale))), seed=1)
    if processes == 1:
        _train(0, plan)
    else:
        spawn(_train, (plan,), processes)


if __name__ == "__main__":
    main()
