"""`python -m tests.determinism DEVICE NEIGHBOURS`: the hash of a picture in that company."""

import hashlib
import subprocess
import sys
from pathlib import Path

import torch

from serve.catalogue import MINIATURE
from serve.miniature import WEIGHTS_DIR
from serve.pipelines.devices import DeviceName
from serve.pipelines.optimisations import Optimisations
from serve.pipelines.pipeline import Pipeline
from tests.fakes import generation
from tests.pictures import finish


def drawn_elsewhere(device: DeviceName, neighbours: int) -> str:
    """What another process says, with this one's environment."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", __name__, device, str(neighbours)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def main(device: DeviceName, neighbours: int) -> None:
    torch.set_num_threads(1)
    pipe = Pipeline.load(
        [MINIATURE.variants["distilled"]], WEIGHTS_DIR, device, Optimisations(deterministic=True)
    )
    drawn, _ = pipe.begin(
        generation(
            variant="distilled",
            seeds=(7, *range(neighbours)),
            width_px=96,
            height_px=96,
            num_inference_steps=5,
        )
    )
    finish(pipe, drawn)
    print(hashlib.sha256(pipe.decode(drawn[:1]).tobytes()).hexdigest())


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))  # type: ignore[arg-type]
