"""Train the whole miniature from scratch: `python -m serve.miniature.training [--out DIR]`.

Stages, each resumable from its checkpoint in DIR: `latents` (their meaning), `unet` (the teacher
with its text encoder), `unet_distilled` and `unet_bk_tiny` (its students), `unet_lcm` and
`unet_distilled_lcm` (of each a UNet for few steps), `vae` and `vae_tiny` (the decoders). The
finished folders are in DIR/weights. On a CPU two single-threaded processes share the work.
"""

import argparse
from pathlib import Path

from torch.multiprocessing.spawn import spawn

from .fitting import free_port
from .stages import BUDGETS, TrainingRun, train


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
    run = TrainingRun(args.out, args.device, processes, stages, args.scale, free_port())
    run.pictures()  # Once, before the processes start.
    if processes == 1:
        train(0, run)
    else:
        # Not a function of `__main__`, which a spawned process couldn't import.
        spawn(train, (run,), processes)


if __name__ == "__main__":
    main()
