"""Train the whole miniature from scratch: `python -m serve.miniature.training [--out DIR]`.

Stages, each resumable from its checkpoint in DIR: `latents` (their meaning), `unet` (the teacher
with its text encoder), `unet_distilled` (the student), `vae` and `vae_tiny` (the decoders). The
finished folders are in DIR/weights. On a CPU two single-threaded processes share the work.
"""

from __future__ import annotations

import argparse
import socket
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from .architecture import new_model
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
"""Batches of one of two processes; a single process takes twice as many samples."""

_PICTURES = 24_000
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


def _train(rank: int, run: TrainingRun) -> None:
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
    if {"unet", "unet_distilled"} & set(run.stages):
        scenes = max(64, round(_SCENES * min(1.0, run.scale))) // run.processes
        data = captioned_latents(out, coder.cpu(), tokenizer, scenes, seed=100 + rank)
        torch.manual_seed(4)
        text = new_model("text_encoder")
        unet, text = train_unet(world, data, text, run.budget("unet"), out)
        if writes:
            export_text(tokenizer, text.cpu(), weights)
            export_model(unet.cpu(), weights, "unet")
        if "unet_distilled" in run.stages:
            budget = run.budget("unet_distilled")
            student = train_student(world, data, unet, text, budget, out)
            if writes:
                export_model(student.cpu(), weights, "unet_distilled")
    if {"vae", "vae_tiny"} & set(run.stages):
        vae = train_vae(world, drawn, coder, run.budget("vae"), out)
        if "vae_tiny" in run.stages:
            tiny = train_vae_tiny(world, drawn, coder, vae, run.budget("vae_tiny"), out)
            if writes:
                export_model(tiny.cpu(), weights, "vae_tiny")
        if writes:
            export_model(fold_scaling(vae.cpu()), weights, "vae")
    if writes and weights.exists():  # Stage `latents` exports nothing.
        export_manifest(weights)
    if run.processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(prog="python -m serve.miniature.training", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("miniature-build"), help="checkpoints and DIR/weights"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--scale", type=float, default=1.0, help="factor for every stage's steps")
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
    run = TrainingRun(args.out, args.device, processes, stages, args.scale, port)
    run.pictures()  # Once, before the processes start.
    if processes == 1:
        _train(0, run)
    else:
        spawn(_train, (run,), processes)


if __name__ == "__main__":
    main()
